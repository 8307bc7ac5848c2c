"""Full sorts of which the front is read: a top-k that computes what is read and no more."""

from __future__ import annotations

import onnx_ir as ir

from dynexport.graph.constants import int64_constant
from dynexport.graph.patterns import (
    axis_of,
    drop_unused,
    integers,
    is_standard,
    maker,
    nodes_of,
    only_user,
    put_in_place,
    scalar,
    sizes_of,
)
from dynexport.graph.sizes import learn_sizes


def cut_sorts(model: ir.Model) -> int:
    """Ask each TopK for the rows that are read of its answer; returns how many were cut.

    The front is read by Slice, by the first part of a Split, or by a Gather of 0, 1, 2 ... In an
    answer sorted best first the front is that of the shorter answer, ties included: the lower
    index comes first (ONNX, TopK). A sort of the negated scores becomes one from the other end.
    """
    learn_sizes(model)
    cut = 0
    for node in nodes_of(model, "TopK"):
        axis = axis_of(node, node.inputs[0])
        asked = integers(node.inputs[1]) if len(node.inputs) > 1 else None
        if axis is None or not asked or not node.attributes.get_int("sorted", 1):
            continue
        reads = [read for value in node.outputs for read in _reads(value, axis)]
        if not reads or None in reads:
            continue
        count = max(read[1] for read in reads if read is not None)
        if count >= asked[0]:
            continue
        for read in reads:
            if read is not None and read[1] == count:
                put_in_place(read[0].outputs[0], read[0].inputs[0])  # type: ignore[arg-type]
        node.replace_input_with(1, int64_constant(model, [count]))
        for value in node.outputs:
            sizes = sizes_of(value)
            if sizes is not None:
                sizes[axis] = count
                value.shape = ir.Shape(sizes)
        _turn(node)
        cut += 1
    if cut:
        drop_unused(model)
    return cut


Read = tuple[ir.Node, int]
"""A node that reads the front of a value, and how much of it."""


def _reads(value: ir.Value, axis: int) -> list[Read | None]:
    """Who reads the front of a value, None for each that reads something else."""
    if value.is_graph_output():
        return [None]
    found: list[Read | None] = []
    for use in value.uses():
        count = _front(use.node, axis) if use.idx == 0 and is_standard(use.node) else None
        found.append(None if count is None else (use.node, count))
    return found


def _front(node: ir.Node, axis: int) -> int | None:
    """How much of its input a node reads from the front on, whole and in order, along an axis."""
    sizes = sizes_of(node.inputs[0])
    if sizes is None or node.outputs[0].shape is None:
        return None
    rank = len(sizes)
    if node.op_type == "Slice" and len(node.inputs) >= 3:
        given = [integers(value) for value in node.inputs[1:]]
        if any(numbers is None or len(numbers) != 1 for numbers in given):
            return None
        starts, ends, axes, steps = (list(numbers or ()) for numbers in _padded(given))
        size = sizes[axis]
        if axes[0] % rank != axis or starts[0] != 0 or steps[0] != 1 or not isinstance(size, int):
            return None
        end = ends[0] + size if ends[0] < 0 else min(ends[0], size)
        return end if end > 0 else None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) % rank == axis:
        rows = integers(node.inputs[1])
        made = sizes_of(node.outputs[0]) or []
        return len(rows) if rows and rows == list(range(len(rows))) and len(made) == rank else None
    return None


def _padded(given: list[list[int] | None]) -> list[list[int] | None]:
    """Starts, ends, axes and steps of a Slice, the last two as they are where not written."""
    return [*given, *[[0], [1]][len(given) - 2 :]]


def _turn(node: ir.Node) -> None:
    """Of the negated scores, of which only the order is read, to the scores themselves."""
    negated = maker(node.inputs[0], "Neg", "Mul")
    if negated is None or node.outputs[0].uses() or node.outputs[0].is_graph_output():
        return
    if negated.op_type == "Mul" and scalar(negated.inputs[1]) != -1.0:
        return
    if only_user(negated.outputs[0]) is not node:
        return
    node.replace_input_with(0, negated.inputs[0])
    largest = node.attributes.get_int("largest", 1)
    node.attributes["largest"] = ir.AttrInt64("largest", 1 - int(largest or 0))
