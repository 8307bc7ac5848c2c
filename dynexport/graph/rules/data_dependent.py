"""Shapes or control flow that follow the data: no CUDA graph can be captured of them."""

from __future__ import annotations

from collections.abc import Iterator

from dynexport.graph.patterns import label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View


def find_data_dependent(view: View) -> Iterator[Finding]:
    """Shapes or control flow that follow the data: no CUDA graph can be captured of them."""
    for node in view.all("NonZero", "Compress", "Unique", "NonMaxSuppression"):
        if any(value in view.fed for value in node.inputs if value is not None):
            what = "its output has another shape for each input, which no CUDA graph can hold"
            fix = "keep a constant number of rows: TopK and a gather instead of a mask"
            yield Finding("data-dependent", "slow", label(node), what, fix)
    for node in view.all("If", "Loop", "Scan"):
        if node.op_type != "If" or view.varies(node.inputs[0]):
            what = "it decides at run time what runs, which no CUDA graph can hold"
            fix = "trace the model for one path, with loops unrolled"
            yield Finding("data-dependent", "slow", label(node), what, fix)


RULE = Rule("data-dependent", "shapes or control flow that follow the data", find_data_dependent)
