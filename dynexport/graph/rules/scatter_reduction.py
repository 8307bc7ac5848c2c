"""Scatters that add or multiply, as token merging does."""

from __future__ import annotations

from collections.abc import Iterator

from dynexport.graph.patterns import label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import View


def find_reductions(view: View) -> Iterator[Finding]:
    """Scatters that add or multiply, as token merging does."""
    for node in view.all("ScatterElements", "ScatterND"):
        kind = node.attributes.get_string("reduction", "none")
        if kind != "none":
            what = f"it scatters with reduction {kind!r}, which few versions take"
            fix = "merge rows by a product with a one-hot matrix"
            yield Finding("scatter-reduction", "risky", label(node), what, fix)


RULE = Rule("scatter-reduction", "scatters that add or multiply", find_reductions)
