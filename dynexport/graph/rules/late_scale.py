"""A scale behind the product of queries and keys, where NVIDIA asks for it before."""

from __future__ import annotations

from collections.abc import Iterator

from dynexport.graph.attention import find_attentions
from dynexport.graph.patterns import constant, label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View


def find_late_scales(view: View) -> Iterator[Finding]:
    """A scale behind the product of queries and keys, where NVIDIA asks for it before."""
    for attention in find_attentions(view):
        for node in attention.inner[: attention.inner.index(attention.softmax)]:
            factors = [constant(value) for value in node.inputs]
            scales = any(factor is not None and factor.size == 1 for factor in factors)
            if node.op_type in ("Mul", "Div") and scales:
                what = (
                    "it scales queries times keys: NVIDIA asks for the scale before that product, "
                    "though TensorRT-RTX 1.7 fuses either"
                )
                fix = "scale the queries before the product"
                yield Finding("late-scale", "risky", label(node), what, fix)
                break


RULE = Rule("late-scale", "attention scaled behind its first product", find_late_scales)
