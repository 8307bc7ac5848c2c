"""What sizes a graph takes, and an engine of it is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dynexport.errors import InputError
from dynexport.formats.metadata import PREFIX, Batch
from dynexport.graph.patterns import label
from dynexport.graph.replay import replay_inputs
from dynexport.graph.rules.baked_batch import baked_batch
from dynexport.graph.view import View
from dynexport.runtimes.tensorrt.builder import Shapes

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""What images may be given as."""


def batch_ranges(graph: ir.Model, name: str, batches: Sequence[str] = ()) -> tuple[Batch, ...]:
    """The batch sizes to build a graph for; InputError if it does not take those asked for."""
    asked = tuple(Batch.parse(batch) for batch in batches)
    if not _is_dynamic(graph):
        size = _shape(graph)[0]
        fixed = Batch.parse(str(size))
        if any(batch != fixed for batch in asked):
            raise InputError(
                f"{name} is made for batch {size} alone: convert it again with `batch` 1:8:64"
            )
        return (fixed,)
    recorded = graph.metadata_props.get(PREFIX + "batch")
    if recorded is None:
        if not asked:
            raise InputError(
                f"{name} leaves its batch size open: give a range, as in `batch` 1:8:64"
            )
        _require_open(graph, name, asked)
    return asked or (Batch.parse(str(recorded).strip('"')),)


def _require_open(graph: ir.Model, name: str, asked: Sequence[Batch]) -> None:
    """InputError where a batch open in name only is not the one asked for."""
    found = baked_batch(View.of(graph))
    if found is None:
        return
    node, size = found
    if any(batch != Batch.parse(str(size)) for batch in asked):
        raise InputError(
            f"the batch of {name} is open in name only: {label(node)} is of a batch of {size}. "
            f"Build it with `batch` {size}, or export it with no number made of x.shape[0] in it"
        )


def profiles_of(graph: ir.Model, ranges: Sequence[Batch]) -> tuple[Mapping[str, Shapes], ...]:
    """By range the smallest, optimal and largest shape of each input; none for a fixed size."""
    if not _is_dynamic(graph):
        return ()
    inputs = [(value, _fixed(value)) for value in (_images(graph), *replay_inputs(graph))]
    return tuple(
        {
            str(value.name): ((r.smallest, *rest), (r.optimal, *rest), (r.largest, *rest))
            for value, rest in inputs
        }
        for r in ranges
    )


def image_shape(graph: ir.Model) -> tuple[int, ...]:
    """The shape of one image: (C, H, W)."""
    return _fixed(_images(graph))


def _is_dynamic(graph: ir.Model) -> bool:
    return not isinstance(_shape(graph)[0], int)


def _fixed(value: ir.Value) -> tuple[int, ...]:
    """The dimensions of an input behind the batch."""
    return tuple(int(size) for size in tuple(value.shape or ())[1:])  # type: ignore[arg-type]


def _images(graph: ir.Model) -> ir.Value:
    """The only input but for a replayed choice, images (B, C, H, W) in floating point, of which
    only the batch size may be open; InputError if the graph takes anything else."""
    replayed = replay_inputs(graph)
    inputs = [
        value
        for value in graph.graph.inputs
        if value.name not in graph.graph.initializers and value not in replayed
    ]
    shape = tuple(inputs[0].shape or ()) if len(inputs) == 1 else ()
    fixed = all(isinstance(size, int) for size in shape[1:])
    if len(shape) != 4 or not fixed or inputs[0].dtype not in FLOATS:
        found = ", ".join(f"{v.name} {v.dtype} {v.shape}" for v in inputs) or "none"
        raise InputError(
            "engines are built of models with one input, images (B, C, H, W) in floating point, "
            f"of which only the batch size may be open, found {found}: export it so"
        )
    return inputs[0]


def _shape(graph: ir.Model) -> tuple[int | ir.SymbolicDim, ...]:
    return tuple(_images(graph).shape or ())
