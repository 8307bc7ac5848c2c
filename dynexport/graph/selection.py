"""Finding the top-k in a graph: read out what it kept, or take it away for the dense twin."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dynexport.errors import ModelFileError
from dynexport.graph.batch import infer_shapes
from dynexport.graph.constants import int64_constant


def top_k_nodes(model: ir.Model) -> list[ir.Node]:
    """The TopK node of each pruning stage, in order."""
    return [node for node in model.graph if node.op_type == "TopK"]


def kept_outputs(model: ir.Model) -> tuple[str, ...]:
    """Names of the outputs that say what was kept."""
    return tuple(v.name for v in model.graph.outputs if v.name and v.name.startswith("kept_"))


def add_kept_outputs(model: ir.Model, selection: str) -> tuple[str, ...]:
    """Add outputs ``kept_0 ...``, int64 (B, K): positions kept, in the original patch grid.

    In a nested selection a stage's rows count the class token first and refer to the tokens the
    stage before left, so they are shifted by one and looked up in what that stage kept. Within
    a row positions stand in the order of their scores, best first. Returns the outputs' names;
    a graph that has them already is left as it is.
    """
    if kept_outputs(model):
        return kept_outputs(model)
    nested = selection == "nested"
    before: ir.Value | None = None
    for stage, top_k in enumerate(top_k_nodes(model)):
        name = f"kept_{stage}"
        kept = top_k.outputs[1]
        if nested:
            window = [int64_constant(model, n) for n in ([1], [2**31 - 1], [1])]
            kept = _append(model, f"{name}/patches", "Slice", [kept, *window])
            kept = _append(model, f"{name}/place", "Sub", [kept, int64_constant(model, [1])])
        looked_up = nested and before is not None
        squeezed = [kept, int64_constant(model, [2])]
        kept = _append(model, f"{name}/left" if looked_up else name, "Squeeze", squeezed)
        if looked_up:
            kept = _append(model, name, "GatherElements", [before, kept], {"axis": 1})
        kept.type = ir.TensorType(ir.DataType.INT64)
        model.graph.outputs.append(kept)
        before = kept
    infer_shapes(model)
    return kept_outputs(model)


def dense_twin(model: ir.Model) -> ir.Model:
    """The same graph with nothing dropped; ModelFileError if it selects nothing.

    Rows taken by a top-k become all rows, rows put back by a top-k become their updates, and
    the predictors, now unused, go. The model given is changed, and returned.
    """
    chosen = {node.outputs[1] for node in top_k_nodes(model)}
    for node in model.graph:
        if node.op_type == "Concat" and chosen & set(node.inputs):
            chosen.add(node.outputs[0])  # rows, numbered by their item of the batch
    bypassed = 0
    for node in list(model.graph):
        passed = {"GatherND": 0, "ScatterND": 2}.get(node.op_type)
        if passed is None or node.inputs[1] not in chosen:
            continue
        replacement = node.inputs[passed]
        assert replacement is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], replacement)
        bypassed += 1
    if not bypassed:
        raise ModelFileError("the graph takes no rows by a top-k: it has no dense twin")
    for value in [v for v in model.graph.outputs if v.name in kept_outputs(model)]:
        model.graph.outputs.remove(value)
    RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    return model


def _append(
    model: ir.Model,
    name: str,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, int] | None = None,
) -> ir.Value:
    """Append a node and return its output, both called ``name``."""
    node = ir.node(op_type, inputs, attributes or {}, name=name)
    node.outputs[0].name = name
    model.graph.append(node)
    return node.outputs[0]
