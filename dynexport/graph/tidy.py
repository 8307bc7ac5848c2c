"""What an exporter leaves over: the same computed twice, nodes that do nothing, unread ones."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from dynexport.graph.patterns import integers, nodes_of


def open_up(model: ir.Model) -> None:
    """Bring a graph into the form that passes read.

    No functions, no Constant nodes, a name for every value, no Reshape told what 0 means that has
    none. What is computed stays as it is.
    """
    if model.functions:
        InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    NameFixPass()(model)
    for node in nodes_of(model, "Reshape"):
        if 0 not in (integers(node.inputs[1]) or [0]):
            node.attributes.pop("allowzero", None)


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
