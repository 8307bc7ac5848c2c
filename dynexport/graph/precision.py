"""What a graph computes in, read off the graph."""

from __future__ import annotations

import onnx_ir as ir

QUANTISING = ("QuantizeLinear", "DynamicQuantizeLinear")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def is_quantised(model: ir.Model) -> bool:
    """Whether values are quantised in it."""
    return any(node.op_type in QUANTISING for node in model.graph)


def type_of_weights(model: ir.Model) -> ir.DataType:
    """The floating type that most of the weights have; float32 where there are none."""
    sizes = dict.fromkeys(FLOATS, 0)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype in sizes:
            sizes[value.const_value.dtype] += value.const_value.size
    return max(sizes, key=lambda dtype: sizes[dtype])
