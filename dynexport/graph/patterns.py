"""Reading a graph backwards for a pattern, and putting something else in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""


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


def maker(value: ir.Value | None, *operators: str) -> ir.Node | None:
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


def put_before(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    shape: Sequence[int | str | None] | None,
    dtype: ir.DataType | None,
) -> ir.Value:
    """A new node in front of another; its output, both called ``name``."""
    graph = node.graph
    assert graph is not None
    new = ir.node(op_type, inputs, dict(attributes or {}), name=name)
    made = new.outputs[0]
    made.name, made.shape = name, None if shape is None else ir.Shape(shape)
    made.type = None if dtype is None else ir.TensorType(dtype)
    graph.insert_before(node, new)
    return made


def put_row_gather(
    node: ir.Node,
    data: ir.Value | None,
    rows: ir.Value | None,
    *,
    name: str,
    shape: Sequence[int | str | None],
) -> ir.Value:
    """Put a gather of whole rows of each image in front of a node that gives the same type.

    data (B, N, ...), rows int64 (B, K, 1) -> (B, K, ...).
    """
    dtype = node.outputs[0].dtype
    batched = {"batch_dims": 1}
    return put_before(node, "GatherND", [data, rows], batched, name=name, shape=shape, dtype=dtype)


def put_in_place(old: ir.Value, new: ir.Value) -> None:
    """Who read what a node gave reads another value; an output of the graph keeps its name."""
    node = old.producer()
    assert node is not None
    if not old.is_graph_output():
        ir.convenience.replace_all_uses_with(old, new)
        return
    name, old.name = str(old.name), f"{old.name}/before"
    if new.producer() is None or new.is_graph_output():
        new = put_before(node, "Identity", [new], name=name, shape=sizes_of(old), dtype=old.dtype)
    new.name, new.shape = name, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and constants that nothing reads."""
    RemoveUnusedNodesPass()(model)
