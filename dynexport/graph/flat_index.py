"""Rows of a batch as rows of one long matrix: image b's row i is row b * N + i."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dynexport.graph.patterns import constant, integers, producer, sizes_of
from dynexport.graph.size_arithmetic import Size, product_of
from dynexport.graph.sizes import Facts

RENAMES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand")
"""Operators that leave a list of numbers as it is."""

PICKS = ("Tile", "Slice", "Gather", "GatherElements", "GatherND", "Transpose")
"""Operators that give some of the numbers of what they are given first, or all."""

LOOKED_BACK = 256
"""Values asked for their bounds to tell those of one, at most."""

Bounds = tuple[int, int]
"""Least and largest of whole numbers."""


def flattened(value: ir.Value | None) -> ir.Value | None:
    """The value (B, N, ...) that was reshaped to this one, (B * N, ...)."""
    node = producer(value, "Reshape", "Flatten")
    source = None if node is None else node.inputs[0]
    return source if is_flattening(sizes_of(value), sizes_of(source)) else None


def is_flattening(flat: Sequence[Size] | None, sizes: Sequence[Size] | None) -> bool:
    """Whether a shape is another's, (B, N, ...), with its first two sizes made one; both known."""
    if flat is None or sizes is None or len(sizes) != len(flat) + 1 or None in (*flat, *sizes):
        return False
    return flat[0] == product_of(sizes[:2]) and list(flat[1:]) == list(sizes[2:])


def rows_within(value: ir.Value | None, facts: Facts, batch: ir.Value) -> ir.Value | None:
    """Rows (B, K) of each image, in 0 ... N - 1, of which these are the rows of the long matrix.

    That is what ``batch`` (B, N, ...) was flattened to; the value may hold them in any shape.
    """
    sizes = sizes_of(batch)
    if sizes is None or not isinstance(sizes[1], int):
        return None
    for added in _chain(value):
        shape = sizes_of(added)
        if shape is None or len(shape) != 2 or None in shape or shape[0] != sizes[0]:
            continue
        found = _without_offset(added, facts, sizes[0], sizes[1])
        if found is None:
            continue
        reach = bounds_of(found)
        if reach is not None and reach[0] >= 0 and reach[1] < sizes[1]:
            return found
    return None


def _chain(value: ir.Value | None) -> list[ir.Value]:
    """A value, and those it is a renaming of."""
    chain: list[ir.Value] = []
    while value is not None:
        chain.append(value)
        node = producer(value, *(name for name in RENAMES if name != "Expand"))
        value = None if node is None else node.inputs[0]
    return chain


def _without_offset(
    added: ir.Value, facts: Facts, batch: int | str | None, rows: int
) -> ir.Value | None:
    """What image numbers times ``rows`` were added to; for one image there is nothing to add."""
    node = producer(added, "Add")
    for place in (0, 1) if node is not None else ():
        assert node is not None
        other = node.inputs[1 - place]
        shape = sizes_of(other)
        if shape == sizes_of(added) and is_offset(node.inputs[place], facts, batch, rows):
            return other
    return added if batch == 1 else None


def is_offset(value: ir.Value | None, facts: Facts, batch: int | str | None, rows: int) -> bool:
    """Whether a value (B, 1) holds 0, rows, 2 * rows ..., one number an image."""
    sizes = sizes_of(value)
    if value is None or sizes is None or sizes != [batch, 1]:
        return False
    return _counts(value, facts, batch, rows)


def is_image_number(value: ir.Value | None, facts: Facts, batch: int | str | None) -> bool:
    """Whether a value (B, ...) holds throughout each image that image's number."""
    array = constant(value)
    if array is not None:
        return bool(np.all(np.arange(len(array)) == array.T)) if array.ndim else False
    sizes = sizes_of(value)
    if value is None or sizes is None or sizes[:1] != [batch]:
        return False
    if sizes[1:] == [1] * len(sizes[1:]) and _counts(value, facts, batch, 1):
        return True
    node = producer(value, "Expand", "Unsqueeze")
    wider = node is not None and node.op_type == "Expand"
    if node is None or (wider and len(sizes_of(node.inputs[0]) or ()) != len(sizes)):
        return False
    return is_image_number(node.inputs[0], facts, batch)


def _counts(value: ir.Value, facts: Facts, batch: int | str | None, step: int) -> bool:
    """Whether what a value holds, in its order, is 0, step, 2 * step ... for each image."""
    array = constant(value)
    if array is not None:
        return isinstance(batch, int) and array.ravel().tolist() == [
            image * step for image in range(batch)
        ]
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Range":
        given = [facts.numbers(number) for number in node.inputs]
        start, limit, own = (None if n is None else n.item() for n in given)
        return start == 0 and own == step and limit == product_of([batch, step])
    if node.op_type == "Mul":
        for place in (0, 1):
            factor, counted = integers(node.inputs[place]), node.inputs[1 - place]
            if factor and len(factor) == 1 and factor[0] and counted is not None:
                return step % factor[0] == 0 and _counts(counted, facts, batch, step // factor[0])
        return False
    if node.op_type in RENAMES:
        sizes = sizes_of(node.inputs[0]) or [None]
        return product_of(sizes) == batch and _counts(node.inputs[0], facts, batch, step)
    return False


def bounds_of(value: ir.Value | None) -> Bounds | None:
    """The least and the largest number a value of rows can hold, where that can be told.

    It is told of no more than `LOOKED_BACK` values: an unrolled loop may add to the same rows for
    thousands of nodes.
    """
    if value is None:
        return None
    told: dict[ir.Value, Bounds | None] = {}
    waiting = [value]
    while waiting and len(told) < LOOKED_BACK:
        needed = [source for source in _bounding(waiting[-1]) if source not in told]
        if needed:
            waiting += needed
        else:
            last = waiting.pop()
            told[last] = _bounds(last, told)
    return told.get(value)


def _bounding(value: ir.Value) -> list[ir.Value]:
    """The values that bound what a node gives; none of a constant, or where none is known to."""
    node = None if constant(value) is not None else value.producer()
    if node is None or (node.op_type == "TopK" and value is node.outputs[1]):
        return []
    if node.op_type in (*RENAMES, *PICKS, "TopK"):
        given = node.inputs[:1]
    elif node.op_type == "ScatterElements":
        given = (node.inputs[0], *node.inputs[2:3])
    elif node.op_type == "Where":
        given = node.inputs[1:]
    else:
        given = node.inputs if node.op_type in ("Add", "Sub", "Concat") else ()
    return [source for source in given if source is not None]


def _bounds(value: ir.Value, told: dict[ir.Value, Bounds | None]) -> Bounds | None:
    """Those of a value, where those of what bounds it are told."""
    array = constant(value)
    if array is not None:
        return (int(array.min()), int(array.max())) if array.size else None
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "TopK" and value is node.outputs[1]:
        sizes = sizes_of(node.inputs[0]) or []
        axis = node.attributes.get_int("axis", -1) or 0
        size = sizes[axis] if -len(sizes) <= axis < len(sizes) else None
        return (0, size - 1) if isinstance(size, int) else None
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        number = 0 if fill is None else int(np.asarray(fill.as_tensor().numpy()).item())
        return number, number
    reaches = [told[source] for source in _bounding(value)]
    known = [reach for reach in reaches if reach is not None]
    if not known or len(known) < len(reaches):
        return None
    (low, high), last = known[0], known[-1]
    if node.op_type == "Add":
        return low + last[0], high + last[1]
    if node.op_type == "Sub":
        return low - last[1], high - last[0]
    return min(reach[0] for reach in known), max(reach[1] for reach in known)
