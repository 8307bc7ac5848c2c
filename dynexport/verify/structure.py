"""What is wrong with a graph as it stands, which no output need show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.formats.metadata import Metadata
from dynexport.graph.quantise import STEPS

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

ROUNDING, SMALLEST = 2.0**-10, 2.0**-24
"""How far a scale may lie from what calibration chose, relative and absolute: half precision may
have rounded it."""


def structure_failures(model: ir.Model, metadata: Metadata) -> tuple[str, ...]:
    """What is wrong with a quantised graph itself, a sentence each.

    Constants that hold NaN, activations that are not restored as they were quantised, and those
    that are quantised in other steps than calibration chose.
    """
    return (*_not_numbers(model), *_unlike_pairs(model), *_other_ranges(model, metadata))


def _not_numbers(model: ir.Model) -> Iterator[str]:
    """A runtime may make an integer of NaN."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and value.dtype in FLOATS and np.isnan(tensor.numpy()).any():
            yield f"constant {name} holds NaN"


def _unlike_pairs(model: ir.Model) -> Iterator[str]:
    for quantise, restore in _pairs(model):
        for place, what in ((1, "scale"), (2, "zero point")):
            there, here = _constant(quantise, place), _constant(restore, place)
            if not np.array_equal(0 if there is None else there, 0 if here is None else here):
                yield f"{restore.name} restores with another {what} than it was quantised with"


def _other_ranges(model: ir.Model, metadata: Metadata) -> Iterator[str]:
    calibrated = (metadata.precision.get("int8") or {}).get("ranges", ())
    chosen = {one["layer"]: one["threshold"] / STEPS for one in calibrated}
    for quantise, restore in _pairs(model):
        found = _constant(quantise, 1)
        for reader in restore.outputs[0].consumers():
            step = chosen.get(str(reader.name).rpartition("/")[0])
            if step is None or found is None or found.size != 1:
                continue
            if not np.isclose(float(found), step, rtol=ROUNDING, atol=SMALLEST):
                yield (
                    f"{reader.name} takes what is quantised in steps of {float(found):.3g}, where "
                    f"calibration chose {step:.3g}"
                )


def _pairs(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Each QuantizeLinear and the DequantizeLinear behind it."""
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            for reader in node.outputs[0].consumers():
                if reader.op_type == "DequantizeLinear":
                    yield node, reader


def _constant(node: ir.Node, place: int) -> NDArray[Any] | None:
    """What one input of a node holds; None where it has none, or it is computed."""
    value = node.inputs[place] if place < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()
