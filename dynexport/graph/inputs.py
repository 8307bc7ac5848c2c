"""Which graphs `optimize` takes: those fed images alone, so that outputs can be compared."""

from __future__ import annotations

import onnx_ir as ir

from dynexport.formats.metadata import PREFIX
from dynexport.graph.opset import OLDEST
from dynexport.graph.patterns import sizes_of

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def reason_to_leave(model: ir.Model) -> str:
    """Why the rules leave a graph as it is; empty where there may be something to gain."""
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST:
        return f"it is of opset {opset}, and the rules know {OLDEST} and later"
    return reason_not_to_compare(model)


def reason_not_to_compare(model: ir.Model) -> str:
    """Why nothing is done to a graph, of whatever opset; empty where it can be fed images."""
    if any(key.startswith(PREFIX) for key in model.metadata_props):
        return "dynexport wrote it: it is lean already"
    return _open_sizes(model) or _input_problem(model)


def fed_input(model: ir.Model) -> ir.Value | None:
    """The only input that is not a constant; None where there are none, or several."""
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    return fed[0] if len(fed) == 1 else None


def _open_sizes(model: ir.Model) -> str:
    """Which sizes of its images a graph leaves open, and what to do; empty where it fixes them."""
    fed = fed_input(model)
    sizes = sizes_of(fed)
    if fed is None or sizes is None or len(sizes) != 4:
        return ""
    named = zip(("channels", "height", "width"), sizes[1:], strict=True)
    left_open = [what for what, size in named if not isinstance(size, int)]
    if left_open == ["channels"]:
        return f"its input {fed.name} leaves the channels open, and no Conv tells how many"
    if left_open:
        return (
            f"its input {fed.name} leaves {' and '.join(left_open)} open: give the size, as in "
            "`img_size` 224 or 224x448"
        )
    return ""


def _input_problem(model: ir.Model) -> str:
    """Why a graph cannot be fed images, in one sentence; empty where it can."""
    problem = _other_than_images(model)
    return f"{problem}, so that its outputs cannot be compared" if problem else ""


def _other_than_images(model: ir.Model) -> str:
    """What a graph takes that is no images; empty where it takes them."""
    fed = fed_input(model)
    if fed is None:
        count = sum(not value.is_initializer() for value in model.graph.inputs)
        return f"it takes {count} inputs, and images alone are known how to make"
    sizes, name = sizes_of(fed), fed.name
    if sizes is None or len(sizes) != 4:
        known = "no shape" if sizes is None else f"the shape {sizes}"
        return f"its input {name} has {known}, where images are (B, channels, height, width)"
    if fed.dtype not in FLOATS:
        return f"its input {name} is of type {fed.dtype}, where images are float32 or float16"
    if sizes[1] not in (1, 3):
        return f"its input {name} has {sizes[1]} channels, where images have 1 or 3"
    return ""
