"""Axes of a Transpose counted from the end, which ONNX does not allow."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.patterns import is_standard, label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View


def find_negative_perms(view: View) -> Iterator[Finding]:
    """Transposes that count from the end: TensorRT takes them, no other runtime does."""
    for node in view.all("Transpose"):
        given = list(node.attributes.get_ints("perm", []))
        if min(given, default=0) < 0:
            what = (
                f"its perm {given} counts from the end, which ONNX does not allow: TensorRT takes "
                "it, and no other runtime loads the file"
            )
            change = f"write {_from_front(given)}, as PyTorch's dynamo exporter does"
            yield Finding(
                "negative-perm", "risky", label(node), what, view.fix(change, node, rewritten=True)
            )


def count_from_front(model: ir.Model) -> int:
    """Write the axes of every Transpose as ONNX has them; returns of how many that was due."""
    mended = 0
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        for node in ir.traversal.RecursiveGraphIterator(graph):
            given = list(node.attributes.get_ints("perm", []))
            if node.op_type == "Transpose" and is_standard(node) and min(given, default=0) < 0:
                node.attributes["perm"] = ir.AttrInt64s("perm", _from_front(given))
                mended += 1
    return mended


def _from_front(perm: list[int]) -> list[int]:
    return [axis + len(perm) if axis < 0 else axis for axis in perm]


RULE = Rule("negative-perm", "axes of Transpose counted from the end", find_negative_perms)
