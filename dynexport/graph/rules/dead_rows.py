"""Rows that nothing reads: a head that reads the class token alone needs only its row computed.

The last block of a vision transformer computes every token, and the head reads one. Backwards
from where one row is read, every operator that works row by row is narrowed to that row: the MLP,
the projection, the attention of that query. Keys and values still need all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import onnx_ir as ir

from dynexport.graph.constants import content_of, int64_constant
from dynexport.graph.edits import named_node, put_behind
from dynexport.graph.names import unique
from dynexport.graph.patterns import is_standard
from dynexport.graph.rule import Rule
from dynexport.graph.sizes import learn_sizes


class Row(NamedTuple):
    """All that is read of a value: one index of one axis."""

    axis: int
    at: int


Demands = dict[tuple[ir.Node, int], Row]
"""By node and place of an input: the row it reads of it. An input not listed is read whole."""


def cut_dead_rows(model: ir.Model) -> int:
    """Narrow what is computed for rows nobody reads; returns how many nodes were narrowed.

    Needs a graph whose shapes are inferred; those of the nodes narrowed are to be inferred anew.
    Nothing is done unless a matrix product becomes smaller by it.
    """
    demands: Demands = {}
    narrowed: list[ir.Node] = []
    readers: list[ir.Node] = []
    for node in reversed(model.graph):
        reads = _reads_one_row(node)
        if reads is not None:
            demands[node, 0] = reads
            readers.append(node)
            continue
        row = _demanded(node, demands)
        needs = None if row is None else _needs_of(node, row)
        if needs is not None:
            demands.update({(node, place): need for place, need in needs.items()})
            narrowed.append(node)
    if not any(node.op_type == "MatMul" for node in narrowed):
        return 0
    _narrow(model, demands, narrowed, readers)
    return len(narrowed)


def _narrow(
    model: ir.Model, demands: Demands, narrowed: list[ir.Node], readers: list[ir.Node]
) -> None:
    """Take the row demanded wherever a narrowed node reads a value that is computed whole."""
    small, names = {*narrowed}, Counter(node.name or "" for node in model.graph)
    cuts: dict[tuple[ir.Value, Row], ir.Value] = {}
    for (node, place), row in demands.items():
        value = node.inputs[place]
        assert value is not None
        if value.producer() in small or node in readers:
            continue
        if (value, row) not in cuts:
            scope = (node.name or "").rpartition("/")[0]
            cuts[value, row] = _cut(model, value, row, unique(f"{scope}/Slice", names))
        node.replace_input_with(place, cuts[value, row])
    for node in narrowed:
        if node.op_type == "Reshape":
            _follow(model, node, demands[node, 0].axis)
    for node in readers:
        source = node.inputs[0]
        assert source is not None
        if source.producer() in small:
            index = node.inputs[1]
            assert index is not None
            zero = 0 if not content_of(index).ndim else [0]
            node.replace_input_with(1, int64_constant(model, zero))


def _cut(model: ir.Model, value: ir.Value, row: Row, name: str) -> ir.Value:
    """A node that takes one row of a value and keeps its axis."""
    window = (row.at, row.at + 1, row.axis)
    inputs = [value, *(int64_constant(model, [number]) for number in window)]
    node = named_node("Slice", inputs, name=name, dtype=value.dtype)
    put_behind(model, value, [node])
    return node.outputs[0]


def _follow(model: ir.Model, node: ir.Node, axis: int) -> None:
    """Let a Reshape copy its input's sizes up to an axis."""
    target = node.inputs[1]
    assert target is not None
    sizes = content_of(target).tolist()
    node.replace_input_with(1, int64_constant(model, [0] * (axis + 1) + sizes[axis + 1 :]))
    node.attributes.pop("allowzero", None)


def _reads_one_row(node: ir.Node) -> Row | None:
    """The row a Gather takes, where it takes one by a constant index."""
    if node.op_type != "Gather" or not is_standard(node):
        return None
    source, index = node.inputs
    if source is None or source.shape is None or index is None or index.const_value is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(source.shape)
    size = source.shape[axis]
    if content_of(index).size != 1 or not isinstance(size, int):
        return None
    return Row(axis, int(content_of(index).item()) % size)


def _demanded(node: ir.Node, demands: Demands) -> Row | None:
    """The row that all who read a node's output demand; None where one reads it whole."""
    first, *others = node.outputs
    if first.is_graph_output() or any(value.uses() for value in others):
        return None
    rows = {demands.get((user, place)) for user, place in first.uses()}
    return rows.pop() if len(rows) == 1 else None


Needs = Mapping[int, Row]
"""By place of an input: the row of it that one row of the output needs."""


def _needs_of(node: ir.Node, row: Row) -> Needs | None:
    """What a node needs of its inputs to compute one row; None where it cannot be narrowed."""
    rule = RULES.get(node.op_type)
    if (
        rule is None
        or not is_standard(node)
        or any(v is None or v.shape is None for v in node.inputs)
    ):
        return None
    return rule(node, row)


def _same_row(node: ir.Node, row: Row) -> Needs:
    return {0: row}


def _aligned_rows(node: ir.Node, row: Row) -> Needs | None:
    """Element by element, broadcast: an input of size 1, or none, along the axis stays whole."""
    rank = _rank(node.outputs[0])
    needs = {}
    for place, value in enumerate(node.inputs):
        assert value is not None
        axis = row.axis - rank + _rank(value)
        if axis >= 0 and value.shape is not None and value.shape[axis] != 1:
            needs[place] = Row(axis, row.at)
    return needs


def _row_beside_axis(node: ir.Node, row: Row) -> Needs | None:
    """An operator along one axis (LayerNormalization: from one on) leaves those before it apart."""
    along = node.attributes.get_int("axis", -1) % _rank(node.outputs[0])
    return {0: row} if row.axis < along else None


def _row_of_left_factor(node: ir.Node, row: Row) -> Needs | None:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    rank = _rank(node.outputs[0])
    if row.axis != rank - 2 or _rank(left) < 2 or _rank(right) < 2:
        return None
    return {0: Row(_rank(left) - 2, row.at)}


def _row_before_transpose(node: ir.Node, row: Row) -> Needs:
    axes = node.attributes.get_ints("perm", [*range(_rank(node.outputs[0]))][::-1])
    return {0: Row(axes[row.axis], row.at)}


def _row_of_kept_axes(node: ir.Node, row: Row) -> Needs | None:
    """A Reshape that leaves the axes up to the row's alone."""
    source, target = node.inputs
    assert source is not None
    assert source.shape is not None
    assert target is not None
    assert node.outputs[0].shape is not None
    before, after = (list(shape)[: row.axis + 1] for shape in (source.shape, node.outputs[0].shape))
    return {0: row} if before == after and target.const_value is not None else None


def _rank(value: ir.Value) -> int:
    assert value.shape is not None
    return len(value.shape)


RULES: Mapping[str, Callable[[ir.Node, Row], Needs | None]] = MappingProxyType(
    {
        **dict.fromkeys(("Gelu", "Erf", "Relu", "Tanh", "Sigmoid", "Sqrt", "Cast"), _same_row),
        **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _aligned_rows),
        **dict.fromkeys(("LayerNormalization", "Softmax"), _row_beside_axis),
        "MatMul": _row_of_left_factor,
        "Transpose": _row_before_transpose,
        "Reshape": _row_of_kept_axes,
    }
)
"""Operators that compute a row of their output from a row of their input."""


def _cut_where_known(model: ir.Model) -> int:
    learn_sizes(model)
    return cut_dead_rows(model)


RULE = Rule("dead-rows", "nodes narrowed to the row that is read", apply=_cut_where_known)
