"""Charts as plain numbers: lengths in per cent of the longest, which the template draws as SVG.

Lengths are per cent and labels are text beside them, so that a chart is as readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynexport.bench import BatchResult, BenchResult
from dynexport.bench.timing import Timing
from dynexport.formats.metadata import Metadata


@dataclass(frozen=True)
class Bar:
    """A bar with its label: ``length`` in per cent, ``kind`` a class of the style sheet."""

    label: str
    value: float
    length: float
    kind: str


@dataclass(frozen=True)
class Segment:
    """A part of a stacked bar: where it starts and how long it is, per cent.

    ``kind``: its colour, counted from 1.
    """

    label: str
    value: float
    start: float
    length: float
    kind: int


@dataclass(frozen=True)
class Stack:
    """A stacked bar and the sum of its parts."""

    label: str
    total: float
    segments: tuple[Segment, ...]


def latency_bars(result: BenchResult, batch: BatchResult) -> tuple[Bar, ...]:
    """Median milliseconds of the dense twin, of the model, and of what its MACs promise."""
    rows = []
    for timing in sorted(batch.timings, key=_is_sparse):
        sparse = _is_sparse(timing)
        label = "this model" if sparse or not batch.gains else "dense twin"
        rows.append((label, timing.computing.p50, "sparse" if sparse else "dense"))
    dense = [timing for timing in batch.timings if not _is_sparse(timing)]
    if batch.gains and dense:
        rows.append(("ideal by MACs", dense[0].computing.p50 / result.ideal, "ideal"))
    return _bars(rows)


def _is_sparse(timing: Timing) -> bool:
    return timing.label.endswith(" sparse")


def token_bars(metadata: Metadata) -> tuple[Bar, ...]:
    """Tokens of the grid, and those left after each stage; with two paths those of the slow one."""
    told = "after stage" if metadata.selection.nested else "slow path, stage"
    rows = [("patches", metadata.num_tokens, "dense")]
    rows += [
        (f"{told} {stage}", count, "sparse")
        for stage, count in enumerate(metadata.keep_counts, start=1)
    ]
    return _bars(rows)


def harm_bars(ranking: Sequence[Mapping[str, Any]], raised: Iterable[str]) -> tuple[Bar, ...]:
    """Divergence by int8 in one place alone, the worst first; those raised back are marked."""
    back = set(raised)
    return _bars(
        (
            _joined(place["layers"]),
            place["divergence"],
            "raised" if set(place["layers"]) <= back else "sparse",
        )
        for place in ranking
    )


def _joined(layers: Sequence[str]) -> str:
    """``blocks.0.attn.q, k, v``: what they share is said once."""
    shared = layers[0].rpartition(".")[0]
    if not all(layer.rpartition(".")[0] == shared for layer in layers):
        return ", ".join(layers)
    return ", ".join([layers[0], *(layer.rpartition(".")[2] for layer in layers[1:])])


def _bars(rows: Iterable[tuple[str, float, str]]) -> tuple[Bar, ...]:
    rows = list(rows)
    sound = [value if math.isfinite(value) else 0.0 for _, value, _ in rows]
    longest = max(sound, default=0.0) or 1.0
    return tuple(
        Bar(label, value, 100.0 * length / longest, kind)
        for (label, value, kind), length in zip(rows, sound, strict=True)
    )


def layer_stacks(layers: Mapping[str, Mapping[str, float]]) -> tuple[Stack, ...]:
    """Milliseconds by group of layers, a stack a candidate, the dense twin first."""
    sums = {name: sum(groups.values()) for name, groups in layers.items()}
    longest = max(sums.values(), default=0.0) or 1.0
    stacks = []
    for name in sorted(layers, key=lambda name: name.endswith(" sparse")):
        start, segments = 0.0, []
        for kind, (group, value) in enumerate(layers[name].items(), start=1):
            length = 100.0 * value / longest
            segments.append(Segment(group, value, start, length, kind))
            start += length
        label = "this model" if name.endswith(" sparse") or len(layers) == 1 else "dense twin"
        stacks.append(Stack(label, sums[name], tuple(segments)))
    return tuple(stacks)
