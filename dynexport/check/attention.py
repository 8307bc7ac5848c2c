"""Attention that TensorRT does not run as one kernel, and what stands in the way.

Fused attention exists in half precision alone. Which graphs become one kernel was tried on
TensorRT-RTX 1.7.1, whose engines list it as a layer named mha; a table in the tests repeats that.
NVIDIA's page "Fused Attention" says what it asks of a graph for all versions. The builder has the
last word: it may also run an attention in parts because that is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.check.view import SHAPES, Finding, View, constant, label, setting, size_at

PRODUCTS = ("MatMul", "Einsum")
ENDS = frozenset({"LayerNormalization", "Gemm", "TopK"})
"""Where a search for the products around a Softmax turns back."""

REACH = 10
"""Nodes between a Softmax and the products before and behind it, at most."""

BREAKS = frozenset(
    {
        "Conv",
        "Einsum",
        "Elu",
        "Erf",
        "Gather",
        "MatMul",
        "Pow",
        "ReduceMean",
        "Relu",
        "Sigmoid",
        "Tanh",
        "Transpose",
    }
)
"""Operators between the two products that leave attention in parts; scale, bias, masks by Add or
Where, Clip and most functions of a single number do not."""

HEADS = range(16, 257, 8)
"""Channels of a head that fused attention takes as they are."""

PADDED = range(9, 257)
"""Channels of a head that it takes at all; those not in `HEADS` are padded by copies."""


@dataclass(frozen=True)
class Attention:
    """Queries times keys, the nodes from there on, the Softmax among them, and times values."""

    product: ir.Node
    inner: tuple[ir.Node, ...]
    softmax: ir.Node
    mix: ir.Node


def unfused_attention(view: View) -> Iterator[Finding]:
    """What keeps an attention spelled MatMul, Softmax, MatMul from being one kernel."""
    for attention in find_attentions(view):
        for check in (_broken, _wrong_axis, _read_elsewhere, _head_sizes):
            for node, what, mend in check(view, attention):
                yield Finding("unfused-attention", "slow", label(node), what, mend)


def late_scale(view: View) -> Iterator[Finding]:
    """A scale behind the product of queries and keys, where NVIDIA asks for it before."""
    for attention in find_attentions(view):
        for node in attention.inner[: attention.inner.index(attention.softmax)]:
            factors = [constant(value) for value in node.inputs]
            scales = any(factor is not None and factor.size == 1 for factor in factors)
            if node.op_type in ("Mul", "Div") and scales:
                what = (
                    "it scales queries times keys: NVIDIA asks for the scale before that product, "
                    "though TensorRT-RTX 1.7 fuses either"
                )
                mend = "scale the queries before the product"
                yield Finding("late-scale", "risky", label(node), what, mend)
                break


def attention_operator(view: View) -> Iterator[Finding]:
    """The Attention operator of opset 23, which has no way back where no kernel fits it."""
    for node in view.all("Attention"):
        queries = node.inputs[0]
        rank = len(queries.shape) if queries is not None and queries.shape is not None else 0
        kind = queries.dtype if queries is not None else None
        channels = size_at(queries, -1)
        mend = "export with opset 20, where attention is MatMul, Softmax, MatMul"
        if node.attributes.get_float("softcap", 0.0):
            what = "it has a softcap, which TensorRT does not take"
        elif rank == 4 and kind == ir.DataType.FLOAT:
            what = "TensorRT has no kernel for the Attention operator in float32"
        elif rank == 4 and channels is not None and channels not in PADDED:
            what = f"TensorRT has no kernel for heads of {channels} channels: it takes 9 to 256"
        else:
            what = "the Attention operator is young: TensorRT-RTX 1.7 takes it, older ones do not"
            yield Finding("attention-operator", "risky", label(node), what, mend)
            continue
        yield Finding("attention-operator", "refused", label(node), what, mend)


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
    makers = [value.producer() for value in node.inputs if value is not None and view.varies(value)]
    return [maker for maker in makers if maker is not None]


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


Remark = tuple[ir.Node, str, str]
"""The node to name, what is the matter, what to change."""


def _broken(view: View, attention: Attention) -> Iterator[Remark]:
    for node in attention.inner:
        if node.op_type in BREAKS:
            what = f"{node.op_type} stands inside an attention, which is not fused then"
            mend = "leave scale, bias, mask and Softmax alone between the two products"
            yield node, what, mend
            return


def _wrong_axis(view: View, attention: Attention) -> Iterator[Remark]:
    softmax = attention.softmax
    rank = len(softmax.inputs[0].shape) if softmax.inputs[0] and softmax.inputs[0].shape else 0
    default = -1 if view.model.opset_imports.get("", 13) >= 13 else 1
    axis = (setting(softmax, "axis", 1) or [default])[0]
    if rank and axis % rank != rank - 1:
        what = f"the Softmax of an attention runs over axis {axis}, not the last: it is not fused"
        yield softmax, what, "write queries times keys, and Softmax over the last axis"


def _read_elsewhere(view: View, attention: Attention) -> Iterator[Remark]:
    inside = {*attention.inner, attention.mix}
    for node in (attention.product, *attention.inner):
        for value in node.outputs:
            users = [use.node for use in value.uses() if use.node.op_type not in SHAPES]
            other = next((user for user in users if user not in inside), None)
            if other is not None or value.is_graph_output():
                reader = label(other) if other is not None else "an output"
                what = (
                    f"{reader} reads this {node.op_type} of an attention, which is not fused then"
                )
                mend = "compute the rows that are read apart from the attention"
                yield node, what, mend
                return


def _head_sizes(view: View, attention: Attention) -> Iterator[Remark]:
    product, mix = attention.product, attention.mix
    if product.op_type != "MatMul" or mix.op_type != "MatMul":
        return
    channels, values = size_at(product.inputs[0], -1), size_at(mix.inputs[1], -1)
    if channels is not None and channels not in HEADS:
        outcome = "are padded by copies" if channels in PADDED else "are not fused"
        what = f"heads of {channels} channels {outcome}: attention fuses 16 to 256 in steps of 8"
        yield product, what, "train heads of such a size, as 64 channels"
    elif channels is not None and values is not None and values != channels:
        what = f"values have {values} channels a head and queries {channels}: it is not fused"
        yield mix, what, "give queries, keys and values as many channels a head"
