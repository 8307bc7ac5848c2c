"""Changing a graph: nodes put in, values put in the place of others, what is unread taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dynexport.graph.patterns import sizes_of


def named_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    shape: Sequence[int | str | None] | ir.Shape | None = None,
    dtype: ir.DataType | None = None,
) -> ir.Node:
    """A node for any place of a graph; it and its output, of this shape and type, have one name."""
    node = ir.node(op_type, inputs, attributes, name=name)
    (made,) = node.outputs
    made.name, made.shape = name, None if shape is None else ir.Shape(shape)
    made.type = None if dtype is None else ir.TensorType(dtype)
    return node


def cast(value: ir.Value, dtype: ir.DataType, *, name: str) -> ir.Node:
    """A Cast of a value to another type, see `named_node`."""
    return named_node(
        "Cast", [value], {"to": int(dtype)}, name=name, shape=value.shape, dtype=dtype
    )


def put_before(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    shape: Sequence[int | str | None] | ir.Shape | None,
    dtype: ir.DataType | None,
) -> ir.Value:
    """What a new node in front of another gives, see `named_node`."""
    new = named_node(op_type, inputs, attributes, name=name, shape=shape, dtype=dtype)
    assert node.graph is not None
    node.graph.insert_before(node, new)
    return new.outputs[0]


def put_behind(model: ir.Model, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Nodes right behind the one that computes a value; in front of all where none does."""
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, nodes)
    elif len(model.graph):
        model.graph.insert_before(model.graph[0], nodes)
    else:
        model.graph.extend(nodes)


def put_row_gather(
    node: ir.Node,
    data: ir.Value | None,
    rows: ir.Value | None,
    *,
    name: str,
    shape: Sequence[int | str | None],
) -> ir.Value:
    """In front of a node that gives the same type, whole rows of each image.

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
