"""The form of a graph that rules read, whoever exported it."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, NameFixPass

from dynexport.graph.patterns import integers, nodes_of


def open_up(model: ir.Model) -> None:
    """Bring a graph into the form that rules read.

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
