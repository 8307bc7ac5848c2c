"""The linear layers of a graph, which can be quantised: activations times constant weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.graph.constants import content_of
from dynexport.graph.half_places import SINGLE


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A MatMul or Gemm of float32: x (..., C) times constant weights.

    node     its name, such as ``blocks.3.mlp.fc1/MatMul``
    source   name of the value x
    weights  float32 (C, N), as x is multiplied with them
    ranks    whether its result serves a top-k alone: a layer of a predictor
    """

    node: str
    source: str
    weights: NDArray[np.float32]
    ranks: bool

    @property
    def name(self) -> str:
        """The module it is called after, ``blocks.3.mlp.fc1``."""
        return self.node.rpartition("/")[0] or self.node


def find_linear_layers(model: ir.Model) -> tuple[LinearLayer, ...]:
    """Every linear layer, its weights two-dimensional and on its right, in the graph's order."""
    ranking = _ranking_nodes(model)
    return tuple(
        LinearLayer(str(node.name), str(x.name), _as_multiplied(node, weights), node in ranking)
        for node in model.graph
        if (operands := operands_of(node)) is not None
        for x, weights in [operands]
    )


def operands_of(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """x and the constant weights of a linear layer; None where a node is none."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    x, weights = node.inputs[0], node.inputs[1]
    if x is None or weights is None or weights.const_value is None or x.const_value is not None:
        return None
    two_dimensional = weights.shape is not None and len(weights.shape) == 2
    if weights.dtype != SINGLE or not two_dimensional or node.attributes.get_int("transA"):
        return None
    return x, weights


def output_axis(node: ir.Node) -> int:
    """Which axis of a linear layer's weights counts its outputs."""
    return 0 if node.attributes.get_int("transB") else 1


def _as_multiplied(node: ir.Node, weights: ir.Value) -> NDArray[np.float32]:
    array: NDArray[np.float32] = content_of(weights)
    return array.T if output_axis(node) == 0 else array


def _ranking_nodes(model: ir.Model) -> set[ir.Node]:
    """Each TopK, and the nodes whose results lead to nothing else."""
    found: set[ir.Node] = set()
    for node in reversed(model.graph):
        users = {user for value in node.outputs for user, _ in value.uses()}
        ends = any(value.is_graph_output() for value in node.outputs)
        if node.op_type == "TopK" or (users and users <= found and not ends):
            found.add(node)
    return found
