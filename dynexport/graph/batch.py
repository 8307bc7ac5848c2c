"""One graph for every batch size: no constant that remembers the batch it was traced with."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from dynexport.errors import DynexportError, ModelFileError
from dynexport.formats.metadata import PREFIX, Batch, Metadata
from dynexport.graph.constants import int64_constant
from dynexport.graph.follow import follow_shapes


def free_batch(model: ir.Model) -> int:
    """Rewrite every Reshape so that it follows its input; returns how many were rewritten.

    The batch is the outermost dimension of every activation, alone or multiplied into what
    stands beside it (windows). So the first entry of a target shape becomes 0 (copy) where the
    first dimension stays as it was, -1 (infer) where it changes; entries equal to the input's at
    the same place become 0 too, which also frees token counts, as the dense twin needs.
    """
    rewritten = 0
    for node in model.graph:
        if node.op_type != "Reshape":
            continue
        data, target = node.inputs
        if data is None or target is None or target.const_value is None or data.shape is None:
            raise DynexportError(
                f"node {node.name}: a Reshape to a shape computed at run time cannot be made "
                "independent of the batch; this is a fault of the model's inference form"
            )
        before = [int(size) for size in data.shape]  # type: ignore[arg-type]
        sizes = target.const_value.numpy().tolist()
        free = [
            0 if place < len(before) and size == before[place] else size
            for place, size in enumerate(sizes)
        ]
        after = node.outputs[0].shape
        if free[0] != 0:
            free[0] = 0 if after is not None and after[0] == before[0] else -1
        node.replace_input_with(1, int64_constant(model, free))
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        rewritten += 1
    return rewritten


def set_batch(model: ir.Model, batch: Batch) -> None:
    """Give inputs and outputs this batch size, and every value in between the shape that follows.

    It is a named dimension where it is a range.
    """
    size: int | str = "batch" if batch.dynamic else batch.optimal
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([size, *list(value.shape)[1:]])
    infer_shapes(model)


def change_batch(model: ir.Model, metadata: Metadata, batch: Batch) -> None:
    """Make of a converted graph what conversion for another batch size gives.

    It is the same graph with that size in it, and in what it says of itself; ``metadata`` are its
    own.
    """
    set_batch(model, batch)
    described = dataclasses.replace(metadata, batch=str(batch))
    model.metadata_props.update(described.to_properties())


def infer_shapes(model: ir.Model) -> None:
    """Infer the shape of every intermediate value anew."""
    ends = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in ends:
                value.shape = None
    follow_shapes(model)
    for node in model.graph:
        if any(value.shape is None for value in node.outputs if value.uses()):
            found = (
                f"the shape of node {node.name} ({node.op_type}) does not follow from the graph's "
                "inputs"
            )
            if any(key.startswith(PREFIX) for key in model.metadata_props):  # it was a file
                raise ModelFileError(
                    f"{found}: another tool changed the file, and dropped what defines that "
                    "operator or its shapes; give the file that `convert` wrote"
                )
            raise DynexportError(f"{found}: this is a fault of the model's inference form")
