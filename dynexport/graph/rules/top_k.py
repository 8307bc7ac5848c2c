"""A TopK that TensorRT refuses: of too many rows, or of a number of them that is no constant."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.patterns import folded, label, setting, size_at
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View
from dynexport.runtimes.tensorrt.limits import TENSORRT_TOP_K


def find_top_k(view: View) -> Iterator[Finding]:
    """A K over the limit or the rows there are, or one that is no constant."""
    for node in view.all("TopK"):
        count, rows = asked(view, node), rows_of(node)
        varies = len(node.inputs) > 1 and node.inputs[1] in view.fed
        if varies:
            what = "its K is no constant: it follows from what is fed"
            fix = "make K a constant: one number for one keep ratio"
        elif count is not None and count > TENSORRT_TOP_K:
            what = f"its K is {count}, and TensorRT's limit is {TENSORRT_TOP_K}"
            fix = "ask for fewer rows: keep less of the image, or take a smaller one"
        elif count is not None and rows is not None and count > rows:
            what = f"its K is {count}, and there are {rows} rows"
            fix = "ask for at most the rows there are"
        else:
            continue
        yield Finding("top-k", "refused", label(node), what, fix)


def asked(view: View, node: ir.Node) -> int | None:
    """K of a TopK, where it is a constant."""
    written = setting(node, "k", 1)
    if written is None and len(node.inputs) > 1:
        array = folded(node.inputs[1], view.model.opset_imports.get("", 1))
        written = None if array is None else [int(number) for number in array.flat]
    return written[0] if written else None


def rows_of(node: ir.Node) -> int | None:
    """How many rows a TopK ranks, where that is known."""
    return size_at(node.inputs[0], node.attributes.get_int("axis", -1))


RULE = Rule("top-k", "a TopK of more rows than TensorRT takes", find_top_k)
