"""What is joined last, when a graph is otherwise finished: see `dynexport.graph.functions`."""

from __future__ import annotations

import onnx_ir as ir

from dynexport.errors import InputError, unknown_choice
from dynexport.graph.bias_gelu import fuse_bias_gelu
from dynexport.graph.edits import drop_unused
from dynexport.graph.multi_head_attention import fuse_attention

TARGETS = ("any", "tensorrt")
"""What a file is written for. any: every runtime; operators that ONNX Runtime has one kernel for
are joined. tensorrt: standard operators alone, for a TensorRT that reads no functions."""

FUSIONS = (fuse_bias_gelu, fuse_attention)


def require_target(target: str) -> None:
    """InputError unless there is a target of this name."""
    if target not in TARGETS:
        raise InputError(unknown_choice("target", target, TARGETS))


def fuse_operators(model: ir.Model) -> int:
    """Join operators that ONNX Runtime has one kernel for; returns how often.

    A graph in half precision is left as it is: these kernels matter on a CPU, in float32. So is one
    with Q/DQ pairs: TensorRT-RTX 1.7 builds no engine of such a graph where functions are in it.
    """
    types = {value.dtype for node in model.graph for value in node.outputs}
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph)
    if quantised or types & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}:
        return 0
    fused = sum(fuse(model) for fuse in FUSIONS)
    drop_unused(model)
    return fused
