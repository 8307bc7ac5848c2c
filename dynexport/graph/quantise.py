"""Static int8 written into the graph: QuantizeLinear and DequantizeLinear around each product.

What is written, and why (figures: docs/precision.md):

- x of each product gets symmetric int8 with one scale, 127 steps a side: TensorRT takes no zero
  point. Values that are all positive but for a small dip (behind a GELU) therefore use little more
  than half of the steps; ranges chosen by the error they cause make up for part of it.
- Each product has a pair Q, DQ of its own, with a scale of its own. ONNX Runtime on x86 computes
  with unsigned activations, and translates signed ones only where a pair has a single user; pairs
  of equal scale it would merge into one.
- Weights are int8, a scale for each output, but 63 steps a side, seven bits. Without VNNI, x86 adds
  two products of 8 bits in 16, which saturate: on the MNIST model that trebles the error of the
  logits (0.023 relative, 0.0095 where nothing saturates); seven bits cost little (0.011) on every
  machine.
- Biases stay float, with ones before their shape: ONNX Runtime would make product and bias a
  Gemm, which it has no int8 form of without a quantised output.
- Products of two activations (attention), convolutions, norms, softmax and all that ranks tokens
  stay as they were. So nothing behind a softmax is quantised, whose values an int8 of equal steps
  cannot hold well (PTQ4ViT, arXiv 2111.12293; FQ-ViT, arXiv 2111.13824).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.errors import ModelFileError
from dynexport.graph.batch import infer_shapes
from dynexport.graph.constants import add_constant
from dynexport.graph.edits import cast, put_before
from dynexport.graph.half_places import SINGLE
from dynexport.graph.linear_layers import operands_of, output_axis

STEPS = 127
"""Steps a side of an activation."""

WEIGHT_STEPS = 63
"""Steps a side of a weight."""

ROUNDING = 2.0**-11
"""What half precision may lose of a stored constant, relative to its largest value."""

LARGE = 1024
"""Elements from which a constant that stays float32 is stored in half precision."""


def quantise(model: ir.Model, thresholds: Mapping[str, float]) -> ir.Model:
    """A typed copy of a float32 graph with int8 products.

    thresholds: by the name of each product's node, the largest magnitude of x that is not clipped.
    Values keep their names. ModelFileError if a node is not there, or is no product.
    """
    typed = model.clone()
    nodes = {str(node.name): node for node in typed.graph}
    zero = add_constant(typed, "const/int8_zero", np.zeros((), np.int8))
    taken: dict[str, set[float]] = {}
    for name, threshold in thresholds.items():
        operands = operands_of(nodes[name]) if name in nodes else None
        if operands is None:
            raise ModelFileError(f"{name} is no product with constant weights in the graph")
        x, weights = operands
        scale = _unlike(threshold / STEPS, taken.setdefault(str(x.name), set()))
        _quantise_input(typed, nodes[name], x, scale, zero)
        _quantise_weights(typed, nodes[name], weights)
        _widen_bias(typed, nodes[name])
    _remove_unused(typed)
    infer_shapes(typed)
    return typed


def quantise_weights(
    weights: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 weights within `WEIGHT_STEPS`, and the scale of each output along ``axis``."""
    largest = np.abs(weights).max(axis=1 - axis)
    scales = (np.where(largest > 0, largest, 1.0) / WEIGHT_STEPS).astype(np.float32)
    steps = np.rint(weights / np.expand_dims(scales, 1 - axis))
    return np.clip(steps, -WEIGHT_STEPS, WEIGHT_STEPS).astype(np.int8), scales


def store_in_half(model: ir.Model) -> int:
    """Store large float32 constants in half precision, a Cast behind each; returns how many.

    Every runtime folds such a Cast when it loads the file, so it costs no time. Scales stay as
    they are, and so do constants with values too large or too small for half precision.
    """
    stored = 0
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if value.dtype != SINGLE or tensor is None or tensor.size < LARGE or _is_scale(value):
            continue
        array = tensor.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            half = array.astype(np.float16)
            lost = np.abs(half.astype(np.float32) - array).max() / np.abs(array).max()
        if not lost <= ROUNDING:
            continue
        name = str(value.name)
        kept = add_constant(model, f"{name}/fp16", half)
        restored = cast(kept, SINGLE, name=f"{name}/Cast")
        ir.convenience.replace_all_uses_with(value, restored.outputs[0])
        restored.outputs[0].name = f"{name}/fp32"
        model.graph.insert_before(model.graph[0], restored)
        model.graph.initializers.pop(name)
        stored += 1
    return stored


def _is_scale(value: ir.Value) -> bool:
    return all(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node, _ in value.uses())


def _unlike(scale: float, taken: set[float]) -> np.float32:
    """The scale, or the next float32 that no other pair on the same value has."""
    result = np.float32(scale)
    while float(result) in taken:
        result = np.nextafter(result, np.float32(np.inf))
    taken.add(float(result))
    return result


def _quantise_input(
    model: ir.Model, node: ir.Node, x: ir.Value, scale: np.float32, zero: ir.Value
) -> None:
    """Q and DQ between x and one product."""
    step = add_constant(model, f"{node.name}/x_scale", np.asarray(scale))
    there = ("QuantizeLinear", f"{node.name}/x_int8", ir.DataType.INT8)
    back = ("DequantizeLinear", f"{node.name}/x", SINGLE)
    value = x
    for operator, name, dtype in (there, back):
        value = put_before(
            node, operator, [value, step, zero], name=name, shape=x.shape, dtype=dtype
        )
    node.replace_input_with(0, value)


def _quantise_weights(model: ir.Model, node: ir.Node, weights: ir.Value) -> None:
    """int8 weights and a DQ before one product."""
    assert weights.const_value is not None
    axis = output_axis(node)
    steps, scales = quantise_weights(weights.const_value.numpy(), axis)
    name = f"{node.name}/weights"
    inputs = [add_constant(model, f"{name}_int8", steps)]
    inputs.append(add_constant(model, f"{name}_scale", scales))
    restored = put_before(
        node,
        "DequantizeLinear",
        inputs,
        {"axis": axis},
        name=name,
        shape=weights.shape,
        dtype=SINGLE,
    )
    node.replace_input_with(1, restored)


def _widen_bias(model: ir.Model, node: ir.Node) -> None:
    """Ones before the shape of the bias that is added to a product, up to its rank."""
    result = node.outputs[0]
    uses = list(result.uses())
    if node.op_type != "MatMul" or len(uses) != 1 or uses[0][0].op_type != "Add":
        return
    add, place = uses[0]
    bias, rank = add.inputs[1 - place], len(result.shape or ())
    if bias is None or bias.const_value is None or bias.const_value.numpy().ndim != 1 or rank < 3:
        return
    array = bias.const_value.numpy()
    wide = add_constant(model, f"{node.name}/bias", array.reshape([1] * (rank - 1) + [-1]))
    add.replace_input_with(1 - place, wide)


def _remove_unused(model: ir.Model) -> None:
    """Constants that nothing uses any more: float weights and narrow biases."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            model.graph.initializers.pop(name)
