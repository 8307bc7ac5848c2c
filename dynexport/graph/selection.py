"""What a graph selects: where each pruning stage's choice is, and how to read it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dynexport.errors import DynexportError, ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.graph.batch import infer_shapes
from dynexport.graph.constants import int64_constant
from dynexport.graph.edits import named_node


def find_selected(model: ir.Model, sparsifiers: str, stages: int) -> tuple[str, ...]:
    """Per stage the value that lists the rows it selects, int64 (B, K or more, 1), best first.

    It is the outcome of the first TopK among the nodes of the stage's sparsifier, which are named
    after it: ``<sparsifiers>.<stage>/TopK``.
    """
    selected = []
    for stage in range(stages):
        scope = f"{sparsifiers}.{stage}"
        found = [
            node
            for node in model.graph
            if node.op_type == "TopK" and (node.name or "").startswith((f"{scope}/", f"{scope}."))
        ]
        if not found:
            raise DynexportError(
                f"the sparsifier {scope} was exported without a top-k: "
                "this is a fault of its inference form"
            )
        selected.append(str(found[0].outputs[1].name))
    return tuple(selected)


def named_values(model: ir.Model, names: Sequence[str]) -> Mapping[str, ir.Value]:
    """Values of a graph that its metadata speak of; ModelFileError if one is not there."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    values |= {str(value.name): value for value in model.graph.inputs}
    missing = [name for name in names if name not in values]
    if missing:
        raise ModelFileError(
            f"the model's metadata speak of a value {missing[0]!r}, which is not in its graph: "
            "another tool renamed or removed it; convert the checkpoint again"
        )
    return {name: values[name] for name in names}


def kept_outputs(model: ir.Model) -> tuple[str, ...]:
    """Names of the outputs that say what was kept."""
    return tuple(v.name for v in model.graph.outputs if v.name and v.name.startswith("kept_"))


def add_kept_outputs(model: ir.Model, metadata: Metadata) -> tuple[str, ...]:
    """Add outputs ``kept_0 ...``, int64 (B, K): positions kept, see `dynexport.schedule.Selection`.

    A stage selects rows: the ``leading`` ones, then tokens, and maybe more. So they are cut to
    what it keeps, shifted and, where the selection is nested, looked up in what the stage before
    left. Within an image positions stand in the order of their scores, best first. Returns the
    outputs' names; a graph that has them already is left as it is.
    """
    if kept_outputs(model):
        return kept_outputs(model)
    selection, lead = metadata.selection, metadata.selection.leading
    rows = named_values(model, metadata.selected)
    before: ir.Value | None = None
    for stage, (value, count) in enumerate(zip(rows.values(), metadata.keep_counts, strict=True)):
        name = f"kept_{stage}"
        window = [int64_constant(model, [n]) for n in (lead, lead + count, 1)]
        kept = _append(model, f"{name}/rows", "Slice", [value, *window])
        if lead:
            kept = _append(model, f"{name}/tokens", "Sub", [kept, int64_constant(model, [lead])])
        squeezed = [kept, int64_constant(model, [2])]
        kept = _append(model, name if before is None else f"{name}/left", "Squeeze", squeezed)
        if before is not None:
            left = _with_appended(model, before, name, metadata, stage)
            kept = _append(model, name, "GatherElements", [left, kept], {"axis": 1})
        kept.type = ir.TensorType(ir.DataType.INT64)
        model.graph.outputs.append(kept)
        before = kept if selection.nested else None
    infer_shapes(model)
    return kept_outputs(model)


def _with_appended(
    model: ir.Model, before: ir.Value, name: str, metadata: Metadata, stage: int
) -> ir.Value:
    """Positions the stage before kept (B, K), and behind them those of the tokens it appended."""
    positions = metadata.selection.appended_by(stage - 1, metadata.num_tokens)
    for number, position in enumerate(positions):
        behind = [int64_constant(model, n) for n in ([0, 0, 0, 1], position)]
        before = _append(model, f"{name}/appended_{number}", "Pad", [before, *behind])
    return before


def _append(
    model: ir.Model,
    name: str,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, int] | None = None,
) -> ir.Value:
    """What a node at the end of the graph gives."""
    node = named_node(op_type, inputs, attributes, name=name)
    model.graph.append(node)
    return node.outputs[0]
