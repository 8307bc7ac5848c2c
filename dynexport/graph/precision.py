"""Which precision a graph computes in, read off the graph."""

from __future__ import annotations

import onnx_ir as ir

NAMES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}


def precision_of(model: ir.Model) -> str:
    """ "int8" where values are quantised, else the type most of the weights have."""
    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in model.graph):
        return "int8"
    sizes = dict.fromkeys(NAMES.values(), 0)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype in NAMES:
            sizes[NAMES[value.const_value.dtype]] += value.const_value.size
    return max(sizes, key=lambda name: sizes[name])
