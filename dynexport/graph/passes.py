"""The passes that make an ONNX file lean, in the order they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.graph.fuse import fuse_operators
from dynexport.graph.rules.dead_rows import cut_dead_rows
from dynexport.graph.rules.fixed_shapes import fold_fixed_shapes
from dynexport.graph.rules.gelu import recognise_gelus
from dynexport.graph.rules.layer_norm import recognise_layer_norms
from dynexport.graph.rules.log_softmax import rank_logits
from dynexport.graph.rules.row_gathers import gather_rows
from dynexport.graph.rules.scatters import merge_scatters
from dynexport.graph.rules.sorts import cut_sorts
from dynexport.graph.rules.uniform import simplify_uniform
from dynexport.graph.sizes import learn_sizes
from dynexport.graph.tidy import merge_duplicates


@dataclass(frozen=True)
class GraphPass:
    """A pass by its name; ``run`` returns how often it applied, and ``what`` says to what."""

    name: str
    run: Callable[[ir.Model], int]
    what: str


def _cut_dead_rows(model: ir.Model) -> int:
    learn_sizes(model)
    return cut_dead_rows(model)


PASSES: tuple[GraphPass, ...] = (
    GraphPass("duplicates", merge_duplicates, "nodes that repeat another, or do nothing, dropped"),
    GraphPass("fixed-shapes", fold_fixed_shapes, "nodes on constants and fixed sizes folded"),
    GraphPass("sorts", cut_sorts, "full sorts cut to a TopK of what is read"),
    GraphPass("row-gathers", gather_rows, "gathers by element or flat index made gathers of rows"),
    GraphPass("scatters", merge_scatters, "pairs of scatters made one gather"),
    GraphPass("uniform", simplify_uniform, "sums and products with one number throughout folded"),
    GraphPass("log-softmax", rank_logits, "softmaxes that are only ranked by dropped"),
    GraphPass("layer-norm", recognise_layer_norms, "spelled LayerNorms made one operator"),
    GraphPass("gelu", recognise_gelus, "spelled GELUs made one operator"),
    GraphPass("dead-rows", _cut_dead_rows, "nodes narrowed to the row that is read"),
)
"""Run in turn until none applies: one makes room for another."""

LAST: tuple[GraphPass, ...] = (
    GraphPass("fused", fuse_operators, "operators joined that ONNX Runtime has one kernel for"),
)
"""Run once, when the graph is otherwise finished."""
