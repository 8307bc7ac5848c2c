"""Arithmetic on sizes of which some are open: known by a name, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Size = int | str | None
"""A number, the name of a size left open, or nothing known."""

Numbers = NDArray[Any] | None
"""What an input holds, an object array of `Size`; None where nothing is known of it."""


def _slice(node: ir.Node, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
    data, starts, ends = given[:3]
    step = int(given[4][0]) if len(given) > 4 else 1
    if data.ndim != 1:
        raise ValueError("a matrix")
    return data[int(starts[0]) : int(ends[0]) : step]


def _concat(node: ir.Node, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(given, axis=node.attributes.get_int("axis", 0))


def _by_axes(change: Callable[..., Any]) -> Callable[..., NDArray[Any]]:
    def apply(node: ir.Node, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
        axes = tuple(int(axis) for axis in given[1]) if len(given) > 1 else None
        return np.asarray(change(given[0], axes), dtype=object)

    return apply


def _elementwise(of_two: Callable[[Any, Any], Any]) -> Callable[..., NDArray[Any]]:
    def apply(node: ir.Node, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
        first, second = np.broadcast_arrays(*given)
        made = np.empty(first.shape, dtype=object)
        for place in np.ndindex(first.shape):
            made[place] = of_two(first[place], second[place])
        return made

    return apply


def _where(node: ir.Node, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
    chosen, first, second = np.broadcast_arrays(*given)
    made = np.empty(chosen.shape, dtype=object)
    for place in np.ndindex(chosen.shape):
        if chosen[place] is not None:
            made[place] = first[place] if chosen[place] else second[place]
    return made


def _equal(a: Size, b: Size) -> bool | None:
    if a is None or b is None:
        return None
    if isinstance(a, str) or isinstance(b, str):
        below = [size for size in (a, b) if not isinstance(size, str) and size < 0]
        return False if below else (True if a == b else None)  # no size is negative
    return bool(a == b)


def _sum(sign: int) -> Callable[[Size, Size], Size]:
    def apply(a: Size, b: Size) -> Size:
        if a is None or b is None:
            return None
        if isinstance(a, str) or isinstance(b, str):
            return a if b == 0 else None
        return int(a) + sign * int(b)

    return apply


def _truncate(a: int, b: int) -> int:
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def _factors(size: int | str) -> tuple[int, Counter[str]]:
    """A size as a number times names: 50*batch."""
    if isinstance(size, int):
        return size, Counter()
    number, star, names = size.partition("*")
    if not star or not number.isdecimal():
        return 1, Counter([size])
    return int(number), Counter(names.split("*"))


def _written(number: int, names: Counter[str]) -> Size:
    if not names:
        return number
    product = "*".join(sorted(names.elements()))
    return product if number == 1 and len(list(names.elements())) == 1 else f"{number}*{product}"


def product_of(sizes: Sequence[Size]) -> Size:
    """The product of sizes; None where one is not known."""
    number, names = 1, Counter[str]()
    for size in sizes:
        if size is None:
            return None
        own, further = _factors(size)
        number, names = number * own, names + further
    return _written(number, names) if number else 0


def _quotient(whole: Size, part: Size) -> Size:
    """The one size that makes ``part`` as large as ``whole``."""
    if whole is None or part is None:
        return None
    (number, names), (divisor, known) = _factors(whole), _factors(part)
    if known - names or not divisor or number % divisor:
        return None
    return _written(number // divisor, names - known)


def _divided(a: Size, b: Size) -> Size:
    if isinstance(a, str) or isinstance(b, str):
        return _quotient(a, b)
    return None if a is None or b is None else _truncate(a, b)


PARTLY: dict[str, Callable[..., NDArray[Any]]] = {
    "Shape": lambda node, given: given[0],
    "Identity": lambda node, given: given[0],
    "Cast": lambda node, given: given[0],
    "Gather": lambda node, given: np.asarray(
        np.take(given[0], given[1].astype(np.int64), axis=node.attributes.get_int("axis", 0)),
        dtype=object,
    ),
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _by_axes(np.expand_dims),
    "Squeeze": _by_axes(np.squeeze),
    "Reshape": lambda node, given: given[0].reshape([int(size) for size in given[1]]),
    "Equal": _elementwise(_equal),
    "Where": _where,
    "Add": _elementwise(_sum(1)),
    "Sub": _elementwise(_sum(-1)),
    "Mul": _elementwise(lambda a, b: product_of((a, b))),
    "Div": _elementwise(_divided),
}
"""Arithmetic on sizes of which some are open."""


def _reshaped(
    node: ir.Node, sizes: list[Size] | None, given: Sequence[Numbers]
) -> list[Size] | None:
    """-1 stands for what is left once the sizes that both shapes have are cancelled."""
    if len(given) < 2 or given[1] is None or sizes is None:
        return None
    target: list[Size] = list(given[1])
    if not node.attributes.get_int("allowzero", 0):
        target = [
            sizes[place] if size == 0 and place < len(sizes) else size
            for place, size in enumerate(target)
        ]
    if -1 in target:
        rest = [size for size in target if size != -1]
        target[target.index(-1)] = _quotient(product_of(sizes), product_of(rest))
    return target


def _expanded(
    node: ir.Node, sizes: list[Size] | None, given: Sequence[Numbers]
) -> list[Size] | None:
    if len(given) < 2 or given[1] is None or sizes is None:
        return None
    asked: list[Size] = list(given[1])
    rank = max(len(asked), len(sizes))
    pairs = zip([1] * (rank - len(sizes)) + sizes, [1] * (rank - len(asked)) + asked, strict=True)
    return [_broadcast(size, to) for size, to in pairs]


def _broadcast(a: Size, b: Size) -> Size:
    for one, other in ((a, b), (b, a)):
        if one == 1 or one == other:
            return other
        if isinstance(one, int) and one > 1:
            return one
    return None


def _tiled(node: ir.Node, sizes: list[Size] | None, given: Sequence[Numbers]) -> list[Size] | None:
    times = given[1] if len(given) > 1 else None
    if times is None or sizes is None or len(times) != len(sizes):
        return None
    return [product_of(pair) for pair in zip(sizes, times, strict=True)]


def _flat(node: ir.Node, sizes: list[Size] | None, given: Sequence[Numbers]) -> list[Size] | None:
    axis = node.attributes.get_int("axis", 1) or 0
    return None if sizes is None else [product_of(sizes[:axis]), product_of(sizes[axis:])]


def _filled(node: ir.Node, sizes: list[Size] | None, given: Sequence[Numbers]) -> list[Size] | None:
    return None if given[0] is None else list(given[0])


def _counted(
    node: ir.Node, sizes: list[Size] | None, given: Sequence[Numbers]
) -> list[Size] | None:
    if any(number is None for number in given):
        return None
    start, limit, step = (number.item() for number in given if number is not None)
    return [limit] if start == 0 and step == 1 else None


SHAPED: dict[str, Callable[[ir.Node, list[Size] | None, Sequence[Numbers]], list[Size] | None]] = {
    "Reshape": _reshaped,
    "Expand": _expanded,
    "Tile": _tiled,
    "Flatten": _flat,
    "ConstantOfShape": _filled,
    "Range": _counted,
}
"""Shapes of what such operators give: of a node, the shape of its first input, and the inputs."""
