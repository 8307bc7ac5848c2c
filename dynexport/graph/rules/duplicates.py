"""What an exporter leaves over: the same computed twice, nodes that do nothing, unread ones."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from dynexport.graph.rule import Rule


def merge_duplicates(model: ir.Model) -> int:
    """Compute once what is computed twice, and nothing that is not read.

    Returns how many nodes went.
    """
    before = model.graph.num_nodes()
    DeduplicateInitializersPass()(model)
    for tidy in (
        IdentityEliminationPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
    ):
        tidy(model)
    return int(before - model.graph.num_nodes())


RULE = Rule(
    "duplicates", "nodes that repeat another, or do nothing, dropped", apply=merge_duplicates
)
