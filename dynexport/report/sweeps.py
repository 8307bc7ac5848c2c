"""A sweep that lies in the folder: its rows, and where they stand between fast and right."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from dynexport.errors import DynexportError, InputError
from dynexport.sweep.pareto import Mark, Panel
from dynexport.sweep.rows import RESULT, Row, Sweep, draw_panels

ROOM = 0.1
"""Beyond the outermost values, as a share of what lies between them."""

MOST_TICKS = 6
"""On an axis: as many labels stand side by side on a phone."""


@dataclass(frozen=True)
class Dot:
    """A configuration in a chart.

    ``x`` and ``y`` in per cent from the left and from the top, ``kind`` its colour, counted from 1,
    0 for the dense model; front: no other beats it in both.
    """

    label: str
    told: str
    x: float
    y: float
    kind: int
    front: bool


@dataclass(frozen=True)
class Tick:
    """A label of an axis, ``place`` per cent of the way from the left or from the top."""

    label: str
    place: float


@dataclass(frozen=True)
class Cloud:
    """Configurations of one batch size.

    Milliseconds to the right, as `steady_latencies` has them, shares up; ``dense``: the dense
    model, where it is known.
    """

    batch: int
    dots: tuple[Dot, ...]
    dense: Dot | None
    latencies: tuple[Tick, ...]
    shares: tuple[Tick, ...]


def read_sweep(folder: Path) -> Sweep | None:
    """The sweep of a folder, if there is one; InputError if its file is damaged."""
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(found[name]) for name in ("front", "files", "notes")}
        rows = tuple(Row.read(row, path) for row in found["rows"])
        sweep = Sweep(**{**found, **lists, "rows": rows})
        sweep_clouds(sweep)  # fails where a row holds no numbers
    except (OSError, ValueError, TypeError, KeyError, DynexportError):
        raise InputError(f"{path} is no complete result of a sweep: sweep again") from None
    return sweep


def sweep_precisions(sweep: Sweep) -> tuple[str, ...]:
    """In the order of the rows."""
    return tuple(dict.fromkeys(row.precision for row in sweep.rows))


def sweep_clouds(sweep: Sweep) -> tuple[Cloud, ...]:
    """A chart a batch size: by latency the accuracy, or the agreement with the dense model.

    Agreement is drawn where there are no labels. Every point stands where the plot of the sweep has
    it.
    """
    sizes = sorted({row.batch for row in sweep.rows if row.measured is not None})
    return tuple(
        _cloud(sweep, size, panel) for size, panel in zip(sizes, draw_panels(sweep), strict=True)
    )


def _cloud(sweep: Sweep, size: int, panel: Panel) -> Cloud:
    kinds = sweep_precisions(sweep)
    places = [
        place
        for place, row in enumerate(sweep.rows)
        if row.batch == size and row.measured is not None
    ]
    shown = [*panel.marks, *([] if panel.dense is None else [panel.dense])]
    costs = _ends([mark.cost for mark in shown])
    low, high = _ends([mark.quality for mark in shown])
    shares = max(0.0, low), min(1.0, high)

    def dot(mark: Mark, told: str, kind: int, front: bool) -> Dot:
        return Dot(
            label=mark.label,
            told=f"{told}: {mark.cost:.2f} ms, {mark.quality:.1%}",
            x=_place(mark.cost, costs),
            y=100.0 - _place(mark.quality, shares),
            kind=kind,
            front=front,
        )

    dots = tuple(
        dot(
            mark,
            f"{mark.series} at {mark.label}",
            kinds.index(mark.series) % 5 + 1,
            place in sweep.front,
        )
        for place, mark in zip(places, panel.marks, strict=True)
    )
    dense = None if panel.dense is None else dot(panel.dense, panel.dense.label, 0, False)
    per_cent = _ticks((100.0 * shares[0], 100.0 * shares[1]))
    return Cloud(
        batch=size,
        dots=dots,
        dense=dense,
        latencies=_ticks(costs),
        shares=tuple(Tick(f"{tick.label} %", 100.0 - tick.place) for tick in per_cent),
    )


def _ends(values: list[float]) -> tuple[float, float]:
    """Of an axis: a little beyond the values."""
    room = ROOM * (max(values) - min(values))
    return min(values) - room, max(values) + room


def _place(value: float, ends: tuple[float, float]) -> float:
    """Per cent of the way; the middle where there is only one value."""
    low, high = ends
    return 50.0 if low == high else 100.0 * (value - low) / (high - low)


def _ticks(ends: tuple[float, float]) -> tuple[Tick, ...]:
    """Round numbers between the ends of an axis: steps of 1, 2 or 5 and zeros."""
    low, high = ends
    if low == high:
        return (Tick(f"{low:.3g}", 50.0),)
    power = math.floor(math.log10((high - low) / MOST_TICKS))
    for digit, exponent in ((1, power), (2, power), (5, power), (1, power + 1)):
        step = digit * 10.0**exponent
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first < MOST_TICKS:
            break
    return tuple(
        Tick(f"{place * step:.{max(0, -exponent)}f}", _place(place * step, ends))
        for place in range(first, last + 1)
    )
