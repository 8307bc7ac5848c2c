"""Reading a graph for a pattern: what computes a value, what a constant holds, known sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""

ALIASES = ("Cast", "Identity")
"""Operators that give what they are given, in another type at most."""


def is_standard(node: ir.Node) -> bool:
    """Whether a node is an operator of ONNX itself."""
    return node.domain in STANDARD


def has_branches(node: ir.Node) -> bool:
    """Whether a node holds graphs of its own."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def nodes_of(model: ir.Model, *operators: str) -> list[ir.Node]:
    """Nodes of these ONNX operators, in their order; those of subgraphs apart."""
    return [node for node in model.graph if node.op_type in operators and is_standard(node)]


def producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that computes a value, if it is of one of these operators."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in operators or not is_standard(node):
        return None
    return node


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What a constant holds; None where the value is none."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or (value is not None and value.is_graph_input()):
        return None
    return np.asarray(tensor.numpy())


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant that holds one."""
    array = constant(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def integers(value: ir.Value | None) -> list[int] | None:
    """The whole numbers of a constant, whatever its shape."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(number) for number in array.flat]


def sizes_of(value: ir.Value | None) -> list[int | str | None] | None:
    """The shape of a value; None where not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def axis_of(node: ir.Node, value: ir.Value | None, default: int = -1) -> int | None:
    """The axis a node works along, from the front; None where the rank is not known."""
    sizes = sizes_of(value)
    axis = node.attributes.get_int("axis", default)
    if sizes is None or axis is None or not -len(sizes) <= axis < len(sizes):
        return None
    return int(axis) % len(sizes)


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that reads a value, where it is the only one and reads it once."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def is_fixed(value: ir.Value) -> bool:
    """Whether every dimension of a value is a number."""
    return value.shape is not None and all(isinstance(size, int) for size in value.shape)


def label(node: ir.Node) -> str:
    """What to call a node: its name, or where it has none its operator and first output."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def given_name(node: ir.Node) -> str:
    """What TensorRT calls a node: its name, or one made of its first output."""
    return node.name or f"node_of_{node.outputs[0].name}"


def folded(value: ir.Value | None, opset: int) -> NDArray[Any] | None:
    """What a value holds that is computed of constants and fixed shapes alone; else None.

    TensorRT's parser folds it so.
    """
    array = constant(value)
    node = value.producer() if value is not None and array is None else None
    if value is None or node is None or has_branches(node):
        return array
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Shape" and source is not None and source.shape is not None:
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        sizes = list(source.shape)[start:end]
        return np.array(sizes) if all(isinstance(size, int) for size in sizes) else None
    feeds = {str(used.name): folded(used, opset) for used in node.inputs if used is not None}
    if not feeds or any(array is None for array in feeds.values()):
        return None
    try:
        evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": opset})
        outputs: Any = evaluator.run([str(value.name)], feeds)
        return np.asarray(outputs[0])
    except Exception:  # an operator the reference does not know, or knows in another version
        return None


def setting(node: ir.Node, name: str, place: int) -> list[int] | None:
    """Whole numbers an operator takes as an attribute or, in later opsets, as an input.

    None where neither is there, or the input is no constant.
    """
    attribute = node.attributes.get(name)
    if attribute is not None:
        return [int(number) for number in np.ravel(attribute.value)]
    array = constant(node.inputs[place]) if place < len(node.inputs) else None
    return None if array is None else [int(number) for number in np.ravel(array)]


def size_at(value: ir.Value | None, axis: int) -> int | None:
    """Size of a value along an axis, which may count from the end; None where it is not known."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def through(value: ir.Value | None, *operators: str) -> ir.Value | None:
    """The value that nodes of these operators, one after the other, made ``value`` of."""
    while (node := producer(value, *operators)) is not None:
        value = node.inputs[0]
    return value


def quantised_dtype(node: ir.Node) -> ir.DataType | None:
    """The integer type on the quantised side of a node."""
    if node.op_type == "DequantizeLinear":
        return node.inputs[0].dtype if node.inputs[0] is not None else None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return node.inputs[2].dtype
    asked = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(asked) if asked else ir.DataType.UINT8  # ONNX's default
