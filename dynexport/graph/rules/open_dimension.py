"""Sizes left open besides the batch: `dynexport build` makes profiles of batch sizes alone."""

from __future__ import annotations

from collections.abc import Iterator

from dynexport.graph.patterns import is_fixed
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View


def find_open_dimensions(view: View) -> Iterator[Finding]:
    """Sizes left open besides the batch: `dynexport build` makes profiles of batch sizes alone."""
    for value in view.model.graph.inputs:
        if value.is_initializer() or is_fixed(value):
            continue
        sizes = list(value.shape)[1:] if value.shape is not None else None
        if sizes is None:
            what = "this input has no shape"
        elif open_ones := [n for n, size in enumerate(sizes, 1) if not isinstance(size, int)]:
            what = f"dimension {', '.join(map(str, open_ones))} of this input has no fixed size"
        else:
            continue
        fix = "fix it when exporting, or with dynexport optimize --img-size; the first may stay"
        yield Finding("open-dimension", "refused", str(value.name), what, fix)


RULE = Rule("open-dimension", "sizes left open besides the batch", find_open_dimensions)
