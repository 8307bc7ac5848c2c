"""Multiply-accumulates of a graph, from the shapes it carries."""

from __future__ import annotations

import math

import onnx_ir as ir

from dynexport.graph.functions import inline_functions


def count_macs(model: ir.Model) -> int:
    """Multiply-accumulates for one image: matrix products and convolutions, as papers count.

    Needs a graph whose shapes are inferred; a dimension with a name (the batch) counts as one,
    a fixed batch is divided out.
    """
    if model.functions:
        model = inline_functions(model.clone())
    images = model.graph.inputs[0]
    batch = _sizes(images)[0]
    return sum(_node_macs(node) for node in model.graph) // batch


def _node_macs(node: ir.Node) -> int:
    """Elements of the output times the length of each one's sum."""
    if node.op_type not in ("MatMul", "MatMulInteger", "Gemm", "Conv"):
        return 0
    weight = node.inputs[1]
    assert weight is not None
    shape = _sizes(weight)
    if node.op_type == "Conv":
        length = math.prod(shape[1:])
    elif node.op_type == "Gemm" and node.attributes.get_int("transB"):
        length = shape[1]
    else:
        length = shape[-2]
    return math.prod(_sizes(node.outputs[0])) * length


def _sizes(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [size if isinstance(size, int) else 1 for size in value.shape]
