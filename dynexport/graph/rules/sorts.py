"""Full sorts of which the front is read: a top-k that computes what is read and no more."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.constants import int64_constant
from dynexport.graph.edits import drop_unused, put_in_place
from dynexport.graph.patterns import (
    ALIASES,
    axis_of,
    integers,
    is_standard,
    label,
    nodes_of,
    only_user,
    producer,
    scalar,
    sizes_of,
    through,
)
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.rules.top_k import asked, rows_of
from dynexport.graph.sizes import learn_sizes
from dynexport.graph.view import View

Read = tuple[ir.Node, int]
"""A node that reads the front of a value, and how much of it."""


def find_sorts(view: View) -> Iterator[Finding]:
    """An argsort of which only the front is read: a top-k in disguise."""
    for node in view.all("TopK"):
        rows, count = rows_of(node), asked(view, node)
        reads = None if count is None else _front_reads(node, count)
        if not reads or rows is None or count != rows:
            continue
        read = max(front for _, front in reads)
        change = f"ask for K = {read}"
        scores = through(node.inputs[0], *ALIASES, "Slice", "Gather", "Squeeze", "Reshape")
        if producer(scores, "LogSoftmax", "Softmax"):
            change += "; of two classes, rank the difference of the logits instead of a softmax"
        what = f"it sorts all {rows} rows, and the first {read} are read"
        fix = view.fix(change, node, rewritten=True)
        yield Finding("full-sort", "slow", label(node), what, fix)


def cut_sorts(model: ir.Model) -> int:
    """Ask each TopK for the rows that are read of its answer; returns how many were cut.

    The front is read by Slice, or by a Gather of 0, 1, 2 ... In an answer sorted best first the
    front is that of the shorter answer, ties included: the lower index comes first (ONNX, TopK). A
    sort of the negated scores becomes one from the other end.
    """
    learn_sizes(model)
    cut = 0
    for node in nodes_of(model, "TopK"):
        count = integers(node.inputs[1]) if len(node.inputs) > 1 else None
        reads, axis = _front_reads(node, count[0]) if count else [], axis_of(node, node.inputs[0])
        if not reads or axis is None:
            continue
        longest = max(front for _, front in reads)
        for reader, front in reads:
            if front == longest and reader.inputs[0] is not None:
                put_in_place(reader.outputs[0], reader.inputs[0])
        node.replace_input_with(1, int64_constant(model, [longest]))
        for value in node.outputs:
            _shorten(value, axis, longest)
        _turn(node)
        cut += 1
    if cut:
        drop_unused(model)
    return cut


def _front_reads(node: ir.Node, count: int) -> list[Read]:
    """Who reads the front of the ``count`` rows that a TopK sorts; none where somebody reads
    something else, or all of them."""
    axis = axis_of(node, node.inputs[0])
    if axis is None or not node.attributes.get_int("sorted", 1):
        return []
    reads = [read for value in node.outputs for read in _reads(value, axis)]
    fronts = [read for read in reads if read is not None]
    if len(fronts) < len(reads) or any(front >= count for _, front in fronts):
        return []
    return fronts


def _reads(value: ir.Value, axis: int) -> list[Read | None]:
    """Who reads the front of a value, None for each that reads something else."""
    if value.is_graph_output():
        return [None]
    found: list[Read | None] = []
    for use in value.uses():
        if is_standard(use.node) and use.node.op_type in ALIASES:
            found += _reads(use.node.outputs[0], axis)
            continue
        count = _front(use.node, axis) if use.idx == 0 and is_standard(use.node) else None
        found.append(None if count is None else (use.node, count))
    return found


def _front(node: ir.Node, axis: int) -> int | None:
    """How much of its input a node reads from the front on, whole and in order, along an axis."""
    sizes = sizes_of(node.inputs[0])
    if sizes is None:
        return None
    rank = len(sizes)
    if node.op_type == "Slice" and len(node.inputs) >= 3:
        given = [integers(value) for value in node.inputs[1:]]
        if any(numbers is None or len(numbers) != 1 for numbers in given):
            return None
        starts, ends, axes, steps = (list(numbers or ()) for numbers in _padded(given))
        if axes[0] % rank != axis or starts[0] != 0 or steps[0] != 1:
            return None
        size = sizes[axis]
        end = ends[0] + size if ends[0] < 0 and isinstance(size, int) else ends[0]
        end = min(end, size) if isinstance(size, int) else end
        return end if end > 0 else None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) % rank == axis:
        rows = integers(node.inputs[1])
        made = sizes_of(node.outputs[0]) or []
        return len(rows) if rows and rows == list(range(len(rows))) and len(made) == rank else None
    return None


def _padded(given: list[list[int] | None]) -> list[list[int] | None]:
    """Starts, ends, axes and steps of a Slice, the last two as they are where not written."""
    return [*given, *[[0], [1]][len(given) - 2 :]]


def _shorten(value: ir.Value, axis: int, count: int) -> None:
    """Say of a value, and of what is the same under another name or type, how long it now is."""
    sizes = sizes_of(value)
    if sizes is not None:
        sizes[axis] = count
        value.shape = ir.Shape(sizes)
    for use in value.uses():
        if is_standard(use.node) and use.node.op_type in ALIASES:
            _shorten(use.node.outputs[0], axis, count)


def _turn(node: ir.Node) -> None:
    """Of the negated scores, of which only the order is read, to the scores themselves."""
    negated = producer(node.inputs[0], "Neg", "Mul")
    if negated is None or node.outputs[0].uses() or node.outputs[0].is_graph_output():
        return
    if negated.op_type == "Mul" and scalar(negated.inputs[1]) != -1.0:
        return
    if only_user(negated.outputs[0]) is not node:
        return
    node.replace_input_with(0, negated.inputs[0])
    largest = node.attributes.get_int("largest", 1)
    node.attributes["largest"] = ir.AttrInt64("largest", 1 - int(largest or 0))


RULE = Rule("sorts", "full sorts cut to a TopK of what is read", find_sorts, cut_sorts)
