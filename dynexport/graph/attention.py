"""Attention in a graph of any exporter: a Softmax between two products of computed values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.graph.view import SHAPES, View

PRODUCTS = ("MatMul", "Einsum")
ENDS = frozenset({"LayerNormalization", "Gemm", "TopK"})
"""Where a search for the products around a Softmax turns back."""

REACH = 10
"""Nodes between a Softmax and the products before and behind it, at most."""


@dataclass(frozen=True)
class Attention:
    """Queries times keys, the nodes from there on, the Softmax among them, and times values."""

    product: ir.Node
    inner: tuple[ir.Node, ...]
    softmax: ir.Node
    mix: ir.Node


def find_attentions(view: View) -> list[Attention]:
    """Every Softmax with a product of two computed values before it, and one behind."""
    found = []
    for softmax in view.all("Softmax"):
        product = _nearest(softmax, _before, view)
        mix = _nearest(softmax, _behind, view)
        if product is not None and mix is not None:
            inner = _between(view, product, mix)
            if softmax in inner:
                found.append(Attention(product, inner, softmax, mix))
    return found


def _before(node: ir.Node, view: View) -> list[ir.Node]:
    producers = [
        value.producer() for value in node.inputs if value is not None and view.varies(value)
    ]
    return [producer for producer in producers if producer is not None]


def _behind(node: ir.Node, view: View) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _nearest(
    start: ir.Node, step: Callable[[ir.Node, View], list[ir.Node]], view: View
) -> ir.Node | None:
    """The nearest product of two computed values, so many steps away."""
    front, seen = [start], {start}
    for _ in range(REACH):
        front = [node for last in front for node in step(last, view) if node not in seen]
        seen.update(front)
        for node in front:
            if node.op_type in PRODUCTS and all(view.varies(value) for value in node.inputs[:2]):
                return node
        front = [node for node in dict.fromkeys(front) if node.op_type not in ENDS]
    return None


def _between(view: View, product: ir.Node, mix: ir.Node) -> tuple[ir.Node, ...]:
    """The nodes on the way from one product to the other, in their order."""
    ahead, way = set(product.outputs), []
    for node in view.nodes[view.place[product] + 1 : view.place[mix]]:
        if node.op_type not in SHAPES and any(value in ahead for value in node.inputs):
            ahead.update(node.outputs)
            way.append(node)
    needed, kept = set(mix.inputs), []
    for node in reversed(way):
        if any(value in needed for value in node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
