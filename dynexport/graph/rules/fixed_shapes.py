"""Nodes that compute on constants and fixed sizes alone: they are folded.

The folding stands in `dynexport.graph.folding`, since the view that `check` takes of a graph needs
it too.
"""

from __future__ import annotations

from dynexport.graph.folding import fold_fixed_shapes
from dynexport.graph.rule import Rule

RULE = Rule("fixed-shapes", "nodes on constants and fixed sizes folded", apply=fold_fixed_shapes)
