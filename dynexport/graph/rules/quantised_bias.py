"""Biases quantised to int32, which TensorRT does not read."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.patterns import label, quantised_dtype
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View


def find_quantised_biases(view: View) -> Iterator[Finding]:
    """Biases in int32."""
    for node in view.all("DequantizeLinear"):
        if quantised_dtype(node) == ir.DataType.INT32:
            what = "it reads int32, as of a quantised bias, which TensorRT does not"
            fix = "leave biases in float: QuantizeBias=False in onnxruntime.quantization"
            yield Finding("quantised-bias", "refused", label(node), what, fix)


RULE = Rule("quantised-bias", "biases in int32", find_quantised_biases)
