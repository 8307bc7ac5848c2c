"""The dense twin: the same graph with nothing dropped, made by a graph edit.

A model marks what selection changes (`dynexport.models.operators.in_dense_twin`): a value, and
the one that stands in its place in the dense twin. In an exported graph each mark is a node,
until `read_marks` takes it away and returns the pair by name, which the metadata keep.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dynexport.errors import ModelFileError
from dynexport.graph.batch import infer_shapes
from dynexport.graph.selection import kept_outputs, named_values

MARK = ("dynexport", "InDenseTwin")
"""Domain and operator of a mark: (here, there) -> here."""


def read_marks(model: ir.Model) -> dict[str, str]:
    """Take the marks out of a graph; returns value -> value in its place, by name."""
    marks = {}
    for node in list(model.graph):
        if (node.domain, node.op_type) == MARK:
            here, there = node.inputs
            assert here is not None
            assert there is not None
            assert here.name
            assert there.name
            marks[here.name] = there.name
            ir.convenience.replace_all_uses_with(node.outputs[0], here)
            model.graph.remove(node, safe=True)
    model.opset_imports.pop(MARK[0], None)
    return marks


def dense_twin(model: ir.Model, marks: Mapping[str, str]) -> ir.Model:
    """The graph with each marked value replaced; ModelFileError if nothing is marked.

    The predictors, now unused, go. The model given is changed, and returned.
    """
    if not marks:
        raise ModelFileError("the graph drops nothing: it has no dense twin but itself")
    values = named_values(model, [*marks, *marks.values()])
    for here, there in marks.items():
        seen = {here}
        while there in marks:  # what takes its place may itself be replaced
            if there in seen:
                raise ModelFileError(
                    f"the model's metadata replace {there!r} by itself in its dense twin: they are "
                    "damaged; convert the checkpoint again"
                )
            seen.add(there)
            there = marks[there]
        ir.convenience.replace_all_uses_with(values[here], values[there])
    for value in [v for v in model.graph.outputs if v.name in kept_outputs(model)]:
        model.graph.outputs.remove(value)
    RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    return model
