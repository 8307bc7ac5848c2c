"""Two halves put back by one gather, by the inverse permutation, instead of two scatters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dynexport.graph.constants import add_constant, int64_constant
from dynexport.graph.edits import drop_unused, put_before, put_in_place, put_row_gather
from dynexport.graph.flat_index import flattened, is_flattening, rows_within
from dynexport.graph.patterns import axis_of, integers, label, nodes_of, producer, scalar, sizes_of
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.rules.row_gathers import has_expanded_index
from dynexport.graph.sizes import Facts, learn_sizes
from dynexport.graph.view import View

INDEX = ir.DataType.INT64


@dataclass(frozen=True)
class Half:
    """Rows written: a range of a sorted order (B, N), and what is written there, (B, k, C)."""

    order: ir.Value
    start: int
    end: int
    rows: ir.Value


def find_scatters(view: View) -> Iterator[Finding]:
    """Rows scattered element by element, by an expanded index."""
    found = view.all("ScatterElements", "Scatter")
    seconds = [node for node in found if _pair(node, Facts()) is not None]
    paired = {*seconds, *(node.inputs[0].producer() for node in seconds if node.inputs[0])}
    for node in found:
        if has_expanded_index(view, node):
            what = "it scatters rows with an index for each of their elements"
            change = "use one index a row: ScatterND"
            fix = view.fix(change, node, rewritten=node in paired)
            yield Finding("expanded-index", "slow", label(node), what, fix)


def merge_scatters(model: ir.Model) -> int:
    """Write two scatters of both parts of a sorted order as one gather; returns how often.

    What they wrote into is overwritten whole, so it does not matter what it was. The inverse of an
    order is made once, whoever puts rows back by it.
    """
    facts = learn_sizes(model)
    inverses: dict[ir.Value, ir.Value] = {}
    merged = 0
    for second in nodes_of(model, "ScatterElements", "ScatterND"):
        pair = _pair(second, facts)
        if pair is None:
            continue
        low, high = pair
        if low.order not in inverses:
            inverses[low.order] = _inverse(model, second, low.order)
        _put_back(model, second, low, high, inverses[low.order])
        merged += 1
    if merged:
        drop_unused(model)
    return merged


def _pair(second: ir.Node, facts: Facts) -> tuple[Half, Half] | None:
    """What a scatter and the one it writes over put back, where that is a whole sorted order."""
    first, batch = producer(second.inputs[0], second.op_type), _unflattened(second)
    halves = [_half(node, facts, batch) for node in (first, second) if node is not None]
    found = sorted((half for half in halves if half is not None), key=lambda half: half.start)
    if len(found) != 2:
        return None
    low, high = found
    size = (sizes_of(low.order) or [0, 0])[1]
    if low.order is not high.order or (low.start, low.end, high.end) != (0, high.start, size):
        return None
    return low, high


def _half(node: ir.Node, facts: Facts, batch: ir.Value | None) -> Half | None:
    """What a scatter writes, and where, if it is part of a sorted order; ``batch`` has the shape
    that what a ScatterND writes into was flattened from."""
    if node.attributes.get_string("reduction", "none") != "none" or len(node.inputs) != 3:
        return None
    data, index, updates = node.inputs
    sizes = sizes_of(data)
    if sizes is None or None in sizes or updates is None:
        return None
    if node.op_type == "ScatterElements":
        expand = producer(index, "Expand")
        rows = None if expand is None else producer(expand.inputs[0], "Unsqueeze", "Reshape")
        if rows is None or len(sizes) != 3 or node.attributes.get_int("axis", 0) not in (1, -2):
            return None
        listed, whole = rows.inputs[0], sizes_of(updates)
        own = sizes_of(listed)
        if own is None or len(own) != 2 or sizes_of(rows.outputs[0]) != [*own, 1]:
            return None
        if sizes_of(index) != whole or whole != [sizes[0], own[1], sizes[2]]:
            return None
    else:
        listed = None if batch is None else rows_within(index, facts, batch)
        own = sizes_of(listed)
        whole = [*(own or ()), *sizes[1:]]
        if own is None or (sizes_of(index) or [0])[-1] != 1 or len(whole) != 3:
            return None
        updates = _as_rows(updates, whole)
    return None if updates is None or listed is None else _part_of_order(listed, updates)


def _unflattened(node: ir.Node) -> ir.Value | None:
    """A value (B, N, C) of the shape that what two scatters write into was flattened from."""
    made = node.outputs[0]
    for use in made.uses():
        flat, sizes = sizes_of(made), sizes_of(use.node.outputs[0])
        if use.node.op_type == "Reshape" and flat and sizes and len(sizes) == len(flat) + 1:
            return use.node.outputs[0] if is_flattening(flat, sizes) else None
    first = producer(node.inputs[0], node.op_type)
    return None if first is None else flattened(first.inputs[0])


def _as_rows(updates: ir.Value, whole: list[int | str | None]) -> ir.Value | None:
    """The value (B, k, C) that was flattened to what is written."""
    source = flattened(updates)
    return source if source is not None and sizes_of(source) == whole else None


def _part_of_order(listed: ir.Value, rows: ir.Value) -> Half | None:
    """Rows listed as a range of what a full sort gives: every number below N once."""
    node = producer(listed, "Slice", "Split")
    order = None if node is None else node.inputs[0]
    sort = producer(order, "TopK")
    if node is None or order is None or sort is None or order is not sort.outputs[1]:
        return None
    sizes = sizes_of(sort.inputs[0]) or []
    size = sizes[1] if len(sizes) == 2 else None
    if axis_of(sort, sort.inputs[0]) != 1 or not isinstance(size, int):
        return None
    if scalar(sort.inputs[1]) != size:
        return None
    if node.op_type == "Split":
        axis, parts = axis_of(node, order, 0), [sizes_of(part) for part in node.outputs]
        lengths = [part[1] if part else None for part in parts]
        before = lengths[: list(node.outputs).index(listed) + 1]
        if axis != 1 or not all(isinstance(length, int) for length in before):
            return None
        end = sum(length for length in before if isinstance(length, int))
        return Half(order, end - int(before[-1] or 0), end, rows)
    given = [integers(value) for value in node.inputs[1:]]
    if len(given) < 3 or any(numbers is None or len(numbers) != 1 for numbers in given):
        return None
    (start, end, axis), step = (numbers[0] for numbers in given[:3] if numbers), given[3:]
    if axis not in (1, -1) or (step and step[0] != [1]):
        return None
    start, end = (n + size if n < 0 else min(n, size) for n in (start, end))
    return Half(order, start, end, rows)


def _inverse(model: ir.Model, node: ir.Node, order: ir.Value) -> ir.Value:
    """Where each row of an image stands in an order: (B, N, 1)."""
    sizes = sizes_of(order) or []
    size = sizes[1]
    assert isinstance(size, int)
    name = f"{order.name}/inverse"
    places = add_constant(model, f"{name}/places", np.arange(size, dtype=np.int64)[None])
    shape = put_before(
        node, "Shape", [order], name=f"{name}/shape", shape=[2], dtype=ir.DataType.INT64
    )
    updates = put_before(
        node, "Expand", [places, shape], name=f"{name}/each", shape=sizes, dtype=INDEX
    )
    scattered = put_before(
        node,
        "ScatterElements",
        [order, order, updates],
        {"axis": 1},
        name=name,
        shape=sizes,
        dtype=INDEX,
    )
    return put_before(
        node,
        "Unsqueeze",
        [scattered, int64_constant(model, [-1])],
        name=f"{name}/rows",
        shape=[*sizes, 1],
        dtype=INDEX,
    )


def _put_back(model: ir.Model, node: ir.Node, low: Half, high: Half, inverse: ir.Value) -> None:
    made = node.outputs[0]
    sizes = [*(sizes_of(low.order) or ()), (sizes_of(low.rows) or [None])[-1]]
    both = put_before(
        node,
        "Concat",
        [low.rows, high.rows],
        {"axis": 1},
        name=f"{made.name}/both",
        shape=sizes,
        dtype=made.dtype,
    )
    back = put_row_gather(node, both, inverse, name=f"{made.name}/back", shape=sizes)
    if sizes_of(made) != sizes:
        for use in list(made.uses()):
            if use.node.op_type == "Reshape" and sizes_of(use.node.outputs[0]) == sizes:
                put_in_place(use.node.outputs[0], back)
        target = int64_constant(model, [-1, *[int(s) for s in sizes[2:] if isinstance(s, int)]])
        back = put_before(
            node,
            "Reshape",
            [back, target],
            name=f"{made.name}/flat",
            shape=sizes_of(made),
            dtype=made.dtype,
        )
    put_in_place(made, back)


RULE = Rule("scatters", "pairs of scatters made one gather", find_scatters, merge_scatters)
