"""Operators on integers, where TensorRT takes QuantizeLinear and DequantizeLinear alone."""

from __future__ import annotations

from collections.abc import Iterator

from dynexport.graph.patterns import label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View

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


def find_quantised_operators(view: View) -> Iterator[Finding]:
    """Operators on integers, where TensorRT takes QuantizeLinear and DequantizeLinear alone."""
    for node in view.all(*WHOLE):
        what = f"TensorRT has no {node.op_type}"
        fix = "quantise in the QDQ format: QuantizeLinear and DequantizeLinear around operators"
        yield Finding("quantised-operator", "refused", label(node), what, fix)


RULE = Rule("quantised-operator", "operators that compute on integers", find_quantised_operators)
