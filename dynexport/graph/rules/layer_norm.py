"""LayerNorm spelled out in eight operators: one, that half precision does not overflow in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dynexport.graph.constants import add_constant
from dynexport.graph.opset import raise_opset
from dynexport.graph.patterns import (
    constant,
    drop_unused,
    integers,
    maker,
    nodes_of,
    only_user,
    put_before,
    put_in_place,
    scalar,
    sizes_of,
)
from dynexport.graph.sizes import learn_sizes

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def recognise_layer_norms(model: ir.Model) -> int:
    """Write what normalises over the last axis as LayerNormalization; returns how often.

    Mean, difference, its square's mean, plus epsilon, square root, quotient, and where they follow
    a constant scale and offset. The operator is of opset 17, to which the graph is raised.
    """
    learn_sizes(model)
    found = [
        (node, *spelled)
        for node in nodes_of(model, "Div", "Mul")
        if (spelled := _normalised(node)) is not None
    ]
    if not found or not raise_opset(model, 17):
        return 0
    for node, source, epsilon in found:
        _write(model, node, source, epsilon)
    drop_unused(model)
    return len(found)


def _normalised(node: ir.Node) -> tuple[ir.Value, float] | None:
    """What a node that ends the pattern normalises, and its epsilon."""
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op_type == "Mul":
        pairs.append((node.inputs[1], node.inputs[0]))
    for centred, spread in pairs:
        difference = maker(centred, "Sub")
        inside = _under_root(spread, divided=node.op_type == "Div")
        source = None if difference is None else _centred(difference)
        if source is None or inside is None or source.dtype not in FLOATS:
            continue
        variance = maker(inside, "Add")
        for place in (0, 1) if variance is not None else ():
            assert variance is not None
            epsilon = scalar(variance.inputs[1 - place])
            if epsilon and epsilon > 0 and _is_variance(variance.inputs[place], source):
                return source, epsilon
    return None


def _under_root(value: ir.Value | None, divided: bool) -> ir.Value | None:
    """Of what something is divided by, or multiplied with, what is under the square root."""
    if divided:
        root = maker(value, "Sqrt")
        power, exponent = maker(value, "Pow"), 0.5
    else:
        turned = maker(value, "Reciprocal", "Div")
        by = None if turned is None else turned.inputs[-1]
        if turned is not None and turned.op_type == "Div" and scalar(turned.inputs[0]) != 1.0:
            by = None
        root = maker(by, "Sqrt")
        power, exponent = maker(value, "Pow"), -0.5
    if root is not None:
        return root.inputs[0]
    if power is not None and scalar(power.inputs[1]) == exponent:
        return power.inputs[0]
    return None


def _centred(difference: ir.Node) -> ir.Value | None:
    """What a node takes its own mean over the last axis from."""
    source = difference.inputs[0]
    mean = maker(difference.inputs[1], "ReduceMean")
    return source if mean is not None and _mean_of(mean) is source else None


def _mean_of(mean: ir.Node) -> ir.Value | None:
    """What a node gives the mean of over the last axis, which it keeps."""
    source = mean.inputs[0]
    sizes = sizes_of(source)
    written = mean.attributes.get("axes")
    axes = list(written.as_ints()) if written is not None else None
    if axes is None and len(mean.inputs) > 1:
        axes = integers(mean.inputs[1])
    if sizes is None or axes is None or len(axes) != 1 or not isinstance(sizes[-1], int):
        return None
    kept = mean.attributes.get_int("keepdims", 1)
    return source if kept and axes[0] in (-1, len(sizes) - 1) else None


def _is_variance(value: ir.Value | None, source: ir.Value) -> bool:
    """Whether a value is the mean square of what is left of ``source`` without its mean."""
    mean = maker(value, "ReduceMean")
    squared = None if mean is None else _mean_of(mean)
    square = maker(squared, "Pow", "Mul")
    if square is None:
        return False
    base, other = square.inputs[:2]
    twice = scalar(other) == 2.0 if square.op_type == "Pow" else base is other
    difference = maker(base, "Sub")
    return twice and difference is not None and _centred(difference) is source


def _write(model: ir.Model, node: ir.Node, source: ir.Value, epsilon: float) -> None:
    """One operator in the place of the pattern that ends in a node, with its scale and offset."""
    made = node.outputs[0]
    channels = (sizes_of(source) or [])[-1]
    assert isinstance(channels, int)
    assert source.dtype is not None
    scale, end = _constant_row(node, "Mul", channels)
    offset, end = _constant_row(end, "Add", channels)
    name = f"{made.name}/LayerNormalization"
    rows = [np.ones(channels) if scale is None else scale]
    rows += [] if offset is None else [offset]
    constants = [
        add_constant(model, f"{name}/{kind}", row.astype(source.dtype.numpy()))
        for kind, row in zip(("scale", "offset"), rows, strict=False)
    ]
    new = put_before(
        end,
        "LayerNormalization",
        [source, *constants],
        {"axis": -1, "epsilon": epsilon},
        name=name,
        shape=sizes_of(source),
        dtype=source.dtype,
    )
    put_in_place(end.outputs[0], new)


def _constant_row(node: ir.Node, operator: str, channels: int) -> tuple[np.ndarray | None, ir.Node]:
    """The constant row that what a node gives is next multiplied with or added to, and the node
    that does; or none, and the node itself."""
    user = only_user(node.outputs[0])
    if user is None or user.op_type != operator:
        return None, node
    other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    row = constant(other)
    if row is None or row.shape[-1:] != (channels,) or row.size != channels:
        return None, node
    if sizes_of(user.outputs[0]) != sizes_of(node.outputs[0]):
        return None, node
    return row.reshape(channels), user
