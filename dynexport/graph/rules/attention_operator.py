"""The Attention operator of opset 23, which has no way back where no kernel fits it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.patterns import label, size_at
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.rules.unfused_attention import PADDED
from dynexport.graph.view import View


def find_attention_operators(view: View) -> Iterator[Finding]:
    """The Attention operator of opset 23, which has no way back where no kernel fits it."""
    for node in view.all("Attention"):
        queries = node.inputs[0]
        rank = len(queries.shape) if queries is not None and queries.shape is not None else 0
        kind = queries.dtype if queries is not None else None
        channels = size_at(queries, -1)
        fix = "export with opset 20, where attention is MatMul, Softmax, MatMul"
        if node.attributes.get_float("softcap", 0.0):
            what = "it has a softcap, which TensorRT does not take"
        elif rank == 4 and kind == ir.DataType.FLOAT:
            what = "TensorRT has no kernel for the Attention operator in float32"
        elif rank == 4 and channels is not None and channels not in PADDED:
            what = f"TensorRT has no kernel for heads of {channels} channels: it takes 9 to 256"
        else:
            what = "the Attention operator is young: TensorRT-RTX 1.7 takes it, older ones do not"
            yield Finding("attention-operator", "risky", label(node), what, fix)
            continue
        yield Finding("attention-operator", "refused", label(node), what, fix)


RULE = Rule("attention-operator", "the Attention operator", find_attention_operators)
