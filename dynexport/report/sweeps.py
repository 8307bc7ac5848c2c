"""A sweep that lies in the folder: its rows, and where they stand between fast and right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dynexport.errors import DynexportError, InputError
from dynexport.sweep.rows import RESULT, Row, Sweep, steady_latencies

ROOM = 0.1
"""Beyond the outermost values, as a share of what lies between them."""


@dataclass(frozen=True)
class Dot:
    """A configuration in a chart: ``x`` and ``y`` in per cent from the left and from the top,
    ``kind`` its colour, counted from 1; front: no other beats it in both."""

    label: str
    told: str
    x: float
    y: float
    kind: int
    front: bool


@dataclass(frozen=True)
class Cloud:
    """Configurations of one batch size: milliseconds to the right, as `steady_latencies` has them,
    shares up, and their ends."""

    batch: int
    dots: tuple[Dot, ...]
    latencies: tuple[float, float]
    shares: tuple[float, float]


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
    """A chart a batch size: by latency the accuracy, without labels the agreement with the dense
    model."""
    sizes = dict.fromkeys(row.batch for row in sweep.rows if row.measured is not None)
    return tuple(_cloud(sweep, size) for size in sizes)


def _cloud(sweep: Sweep, size: int) -> Cloud:
    kinds = sweep_precisions(sweep)
    steady = steady_latencies(sweep.rows)
    found = [
        (place, row, steady[row.key], row.measured.quality)
        for place, row in enumerate(sweep.rows)
        if row.batch == size and row.measured is not None
    ]
    latencies = _ends([latency for _, _, latency, _ in found])
    low, high = _ends([quality for *_, quality in found])
    shares = max(0.0, low), min(1.0, high)
    dots = tuple(
        Dot(
            label=f"{row.ratio:g}",
            told=f"{row.precision} at {row.ratio:g}: {latency:.2f} ms, {quality:.1%}",
            x=_place(latency, latencies),
            y=100.0 - _place(quality, shares),
            kind=kinds.index(row.precision) % 5 + 1,
            front=place in sweep.front,
        )
        for place, row, latency, quality in found
    )
    return Cloud(size, dots, latencies, shares)


def _ends(values: list[float]) -> tuple[float, float]:
    """Of an axis: a little beyond the values."""
    room = ROOM * (max(values) - min(values))
    return min(values) - room, max(values) + room


def _place(value: float, ends: tuple[float, float]) -> float:
    """Per cent of the way; the middle where there is only one value."""
    low, high = ends
    return 50.0 if low == high else 100.0 * (value - low) / (high - low)
