"""Attention as one node: ONNX Runtime's MultiHeadAttention.

Its kernel reads the heads where the projections left them and goes through keys and values block
by block (arXiv 2205.14135), so nothing is transposed and no matrix of weights is written.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from dynexport.graph.functions import ONNXRUNTIME, add_function
from dynexport.graph.patterns import axis_of, integers, only_user, producer, sizes_of

HEADS_FIRST, KEYS_FIRST = (0, 2, 1, 3), (0, 2, 3, 1)
"""(B, N, H, D) to (B, H, N, D), and to (B, H, D, N)."""


class Parted(NamedTuple):
    """A projection parted into heads: the nodes that do it, what they read, heads and width."""

    nodes: list[ir.Node]
    source: ir.Value
    heads: tuple[int, int]


class Attention(NamedTuple):
    """The nodes it is made of, the last one last; queries, keys, values; heads and their width."""

    nodes: list[ir.Node]
    inputs: tuple[ir.Value, ir.Value, ir.Value]
    heads: tuple[int, int]


def fuse_attention(model: ir.Model) -> int:
    """Join each MatMul, Softmax, MatMul over heads with the Reshapes and Transposes around it.

    Returns how many were joined.

    The scale is the queries' already. Only attention of the same heads as the first found: the
    definition that other runtimes read holds their number.
    """
    found = [each for each in map(_attention_of, model.graph) if each is not None]
    found = [each for each in found if each.heads == found[0].heads]
    for nodes, inputs, (heads, _) in found:
        last = nodes[-1]
        joined = ir.node(
            "MultiHeadAttention",
            inputs,
            {"num_heads": heads, "scale": 1.0},
            domain=ONNXRUNTIME,
            name=f"{(last.name or '').rpartition('/')[0]}/MultiHeadAttention",
        )
        ir.convenience.replace_nodes_and_values(
            model.graph, last, nodes[::-1], [joined], last.outputs, joined.outputs
        )
    if found:
        add_function(model, _definition(*found[0].heads))
    return len(found)


def _definition(heads: int, width: int) -> str:
    return f"""MultiHeadAttention <num_heads, scale> (Q, K, V) => (Y) {{
        split = Constant <value_ints = [0, 0, {heads}, {width}]> ()
        join = Constant <value_ints = [0, 0, {heads * width}]> ()
        Q1 = Reshape (Q, split)
        K1 = Reshape (K, split)
        V1 = Reshape (V, split)
        Q2 = Transpose <perm = [0, 2, 1, 3]> (Q1)
        K2 = Transpose <perm = [0, 2, 3, 1]> (K1)
        V2 = Transpose <perm = [0, 2, 1, 3]> (V1)
        S = MatMul (Q2, K2)
        P = Softmax <axis = -1> (S)
        M = MatMul (P, V2)
        M1 = Transpose <perm = [0, 2, 1, 3]> (M)
        Y = Reshape (M1, join)
    }}"""


def _attention_of(softmax: ir.Node) -> Attention | None:
    """The attention around a Softmax over its last axis; None where there is none."""
    weights = softmax.outputs[0]
    if producer(weights, "Softmax") is None or axis_of(softmax, weights) != 3:
        return None
    scores, mixed = _made_alone(softmax.inputs[0], "MatMul"), _read_alone(softmax, "MatMul")
    turned = None if mixed is None else _read_alone(mixed, "Transpose", HEADS_FIRST)
    joined = None if turned is None else _read_alone(turned, "Reshape")
    if scores is None or mixed is None or turned is None or joined is None:
        return None
    sides = [
        _heads_of(scores.inputs[0], HEADS_FIRST),
        _heads_of(scores.inputs[1], KEYS_FIRST),
        _heads_of(mixed.inputs[1], HEADS_FIRST),
    ]
    if None in sides:
        return None
    q, k, v = (side for side in sides if side is not None)
    heads, width = q.heads
    if not q.heads == k.heads == v.heads or (integers(joined.inputs[1]) or [])[2:] != [
        heads * width
    ]:
        return None
    nodes = [*q.nodes, *k.nodes, *v.nodes, scores, softmax, mixed, turned, joined]
    return Attention(nodes, (q.source, k.source, v.source), q.heads)


def _heads_of(value: ir.Value | None, axes: tuple[int, ...]) -> Parted | None:
    """A projection (B, N, C) parted into heads and turned by ``axes``."""
    turned = _made_alone(value, "Transpose", axes)
    parted = None if turned is None else _made_alone(turned.inputs[0], "Reshape")
    if turned is None or parted is None:
        return None
    source, target = parted.inputs[0], integers(parted.inputs[1])
    if source is None or len(sizes_of(source) or []) != 3 or target is None or len(target) != 4:
        return None
    if target[1] != 0 or min(target[2:]) < 1:
        return None
    return Parted([parted, turned], source, (target[2], target[3]))


def _made_alone(
    value: ir.Value | None, op_type: str, axes: tuple[int, ...] | None = None
) -> ir.Node | None:
    """The node of this type that made a value for one reader."""
    node = producer(value, op_type)
    if node is None or value is None or only_user(value) is None:
        return None
    return node if axes is None or _turns(node) == axes else None


def _read_alone(node: ir.Node, op_type: str, axes: tuple[int, ...] | None = None) -> ir.Node | None:
    """The node of this type that alone reads a node's output, as its first input."""
    user = only_user(node.outputs[0])
    if user is None or user.inputs[0] is not node.outputs[0]:
        return None
    if producer(user.outputs[0], op_type) is None:
        return None
    return user if axes is None or _turns(user) == axes else None


def _turns(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes.get_ints("perm", ()))
