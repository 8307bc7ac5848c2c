"""Where a node may work in half precision, as ONNX defines its operator."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

SINGLE = ir.DataType.FLOAT
Formal = onnx.defs.OpSchema.FormalParameter
"""An input or output of an operator, as ONNX defines it."""


def half_places(node: ir.Node, dtype: ir.DataType) -> tuple[list[int], list[int]]:
    """Which inputs and outputs of a node turn from float32 to ``dtype``, by the operator's schema.

    Inputs whose type may vary, and outputs of the same type. None of an operator unknown to ONNX,
    or that holds a graph.
    """
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    inside = any(attribute.type in graphs for attribute in node.attributes.values())
    if inside or not onnx.defs.has(node.op_type, node.domain):
        return [], []
    assert node.graph is not None
    version = node.graph.opset_imports[node.domain]
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    tensor = f"tensor({dtype.name.lower()})"
    allowed = {c.type_param_str for c in schema.type_constraints if tensor in c.allowed_type_strs}
    inputs = _float_places(node.inputs, schema.inputs, allowed)
    shared = {_variable(schema.inputs, place) for place in inputs}
    return inputs, _float_places(node.outputs, schema.outputs, shared)


def _float_places(
    values: Sequence[ir.Value | None], formals: Sequence[Formal], variables: set[str]
) -> list[int]:
    return [
        place
        for place, value in enumerate(values)
        if value is not None and value.dtype == SINGLE and _variable(formals, place) in variables
    ]


def _variable(formals: Sequence[Formal], place: int) -> str:
    """The type variable of a parameter; the last one may stand for any number."""
    return str(formals[min(place, len(formals) - 1)].type_str)
