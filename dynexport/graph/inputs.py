"""Which graphs `optimize` takes: those fed images alone, so that outputs can be compared."""

from __future__ import annotations

import onnx_ir as ir

from dynexport.formats.metadata import PREFIX
from dynexport.graph.opset import OLDEST
from dynexport.graph.patterns import sizes_of

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def reason_to_leave(model: ir.Model) -> str:
    """Why a graph is left as it is; empty where there may be something to gain."""
    if any(key.startswith(PREFIX) for key in model.metadata_props):
        return "dynexport wrote it: it is lean already"
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST:
        return f"it is of opset {opset}, and the rules know {OLDEST} and later: export it anew"
    problem = _input_problem(model)
    return f"{problem}, so that its outputs cannot be compared" if problem else ""


def _input_problem(model: ir.Model) -> str:
    """Why a graph cannot be fed images, in one sentence; empty where it can."""
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(fed) != 1:
        return f"it takes {len(fed)} inputs, and images alone are known how to make"
    sizes, name = sizes_of(fed[0]), fed[0].name
    if sizes is None or len(sizes) != 4 or not all(isinstance(size, int) for size in sizes[1:]):
        known = "no shape" if sizes is None else f"the shape {sizes}"
        return f"its input {name} has {known}, where images are (B, channels, height, width)"
    if fed[0].dtype not in FLOATS:
        return f"its input {name} is of type {fed[0].dtype}, where images are float32 or float16"
    if sizes[1] not in (1, 3):
        return f"its input {name} has {sizes[1]} channels, where images have 1 or 3"
    return ""
