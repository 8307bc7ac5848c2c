"""Quantised types that TensorRT does not read: all but int8."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from dynexport.graph.patterns import constant, label, quantised_dtype
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.rules.zero_points import SYMMETRIC
from dynexport.graph.view import View

REFUSED = (
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.UINT4,
    ir.DataType.FLOAT8E5M2,
)
"""Quantised types that TensorRT does not read."""


def find_quantised_types(view: View) -> Iterator[Finding]:
    """Other types than int8: refused, but for uint8 activations, which are read as int8."""
    for node in view.all("QuantizeLinear", "DequantizeLinear"):
        kind, source = quantised_dtype(node), node.inputs[0]
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


RULE = Rule("quantised-type", "other types than int8", find_quantised_types)
