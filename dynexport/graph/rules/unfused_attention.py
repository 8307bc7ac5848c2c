"""Attention that TensorRT does not run as one kernel, and what stands in the way.

Fused attention exists in half precision alone. Which graphs become one kernel was tried on
TensorRT-RTX 1.7.1, whose engines list it as a layer named mha; a table in the tests repeats that.
NVIDIA's page "Fused Attention" says what it asks of a graph for all versions. The builder has the
last word: it may also run an attention in parts because that is faster.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.attention import Attention, find_attentions
from dynexport.graph.patterns import label, setting, size_at
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import SHAPES, View

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


def find_unfused_attention(view: View) -> Iterator[Finding]:
    """What keeps an attention spelled MatMul, Softmax, MatMul from being one kernel."""
    for attention in find_attentions(view):
        for check in (_broken, _wrong_axis, _read_elsewhere, _head_sizes):
            for node, what, fix in check(view, attention):
                yield Finding("unfused-attention", "slow", label(node), what, fix)


Complaint = tuple[ir.Node, str, str]
"""The node to name, what is the matter, what to change."""


def _broken(view: View, attention: Attention) -> Iterator[Complaint]:
    for node in attention.inner:
        if node.op_type in BREAKS:
            what = f"{node.op_type} stands inside an attention, which is not fused then"
            fix = "leave scale, bias, mask and Softmax alone between the two products"
            yield node, what, fix
            return


def _wrong_axis(view: View, attention: Attention) -> Iterator[Complaint]:
    softmax = attention.softmax
    rank = len(softmax.inputs[0].shape) if softmax.inputs[0] and softmax.inputs[0].shape else 0
    default = -1 if view.model.opset_imports.get("", 13) >= 13 else 1
    axis = (setting(softmax, "axis", 1) or [default])[0]
    if rank and axis % rank != rank - 1:
        what = f"the Softmax of an attention runs over axis {axis}, not the last: it is not fused"
        yield softmax, what, "write queries times keys, and Softmax over the last axis"


def _read_elsewhere(view: View, attention: Attention) -> Iterator[Complaint]:
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
                fix = "compute the rows that are read apart from the attention"
                yield node, what, fix
                return


def _head_sizes(view: View, attention: Attention) -> Iterator[Complaint]:
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


RULE = Rule("unfused-attention", "attention that is not one kernel", find_unfused_attention)
