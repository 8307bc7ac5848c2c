"""Asymmetric quantisation, which TensorRT does not take."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dynexport.graph.patterns import constant, label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View

SYMMETRIC = "quantise symmetrically to int8, with zero points of 0"


def find_zero_points(view: View) -> Iterator[Finding]:
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


RULE = Rule("asymmetric", "zero points other than 0", find_zero_points)
