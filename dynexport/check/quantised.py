"""What TensorRT takes of quantised graphs: symmetric int8, one rule a way to miss it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from dynexport.check.view import Finding, View, constant, label

SYMMETRIC = "quantise symmetrically to int8, with zero points of 0"
WHOLE = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""Operators that compute on quantised values themselves."""

REFUSED = (
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.UINT4,
    ir.DataType.FLOAT8E5M2,
)
"""Quantised types that TensorRT does not read."""


def quantised_operators(view: View) -> Iterator[Finding]:
    """Operators on integers, where TensorRT takes QuantizeLinear and DequantizeLinear alone."""
    for node in view.all(*WHOLE):
        what = f"TensorRT has no {node.op_type}"
        mend = "quantise in the QDQ format: QuantizeLinear and DequantizeLinear around operators"
        yield Finding("quantised-operator", "refused", label(node), what, mend)


def quantised_bias(view: View) -> Iterator[Finding]:
    """Biases in int32."""
    for node in view.all("DequantizeLinear"):
        if _dtype(node) == ir.DataType.INT32:
            what = "it reads int32, as of a quantised bias, which TensorRT does not"
            mend = "leave biases in float: QuantizeBias=False in onnxruntime.quantization"
            yield Finding("quantised-bias", "refused", label(node), what, mend)


def zero_points(view: View) -> Iterator[Finding]:
    """Asymmetric quantisation, and zero points that are no constants."""
    for node in view.all("QuantizeLinear", "DequantizeLinear"):
        if len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        point = constant(node.inputs[2])
        if point is None:
            what = "its zero point is not a constant"
        elif np.any(point.astype(np.float32) != 0):
            what = f"its zero point is {point[point != 0].flat[0]}"
            what += " somewhere" if point.size > 1 else ""
        else:
            continue
        yield Finding("asymmetric", "refused", label(node), what, SYMMETRIC)


def quantised_types(view: View) -> Iterator[Finding]:
    """Other types than int8: refused, but for uint8 activations, which are read as int8."""
    for node in view.all("QuantizeLinear", "DequantizeLinear"):
        kind, source = _dtype(node), node.inputs[0]
        point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if kind not in REFUSED or (point is not None and np.any(point.astype(np.float32) != 0)):
            continue  # `zero_points` tells of those
        if kind != ir.DataType.UINT8:
            what = f"TensorRT does not read quantised {kind.name.lower()}"
            yield Finding("quantised-type", "refused", label(node), what, SYMMETRIC)
        elif node.op_type == "QuantizeLinear":
            what = "TensorRT takes its uint8 for int8, and cuts what lies above 127 steps"
            yield Finding("quantised-type", "inexact", label(node), what, SYMMETRIC)
        elif source is not None and (source in view.known or source.is_graph_input()):
            what = "TensorRT does not read quantised uint8"
            yield Finding("quantised-type", "refused", label(node), what, SYMMETRIC)


def _dtype(node: ir.Node) -> ir.DataType | None:
    """The integer type on the quantised side of a node."""
    if node.op_type == "DequantizeLinear":
        return node.inputs[0].dtype if node.inputs[0] is not None else None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return node.inputs[2].dtype
    asked = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(asked) if asked else ir.DataType.UINT8  # ONNX's default
