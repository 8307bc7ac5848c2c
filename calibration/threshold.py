"""Where to clip a tensor before it is rounded to int8: four methods, and the choice among them.

Quantisation is symmetric: x becomes clip(round(x / step), -levels, levels) with step = threshold /
levels. A low threshold rounds finely and clips the largest values, a high one does the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.calibration.histogram import BINS, Histogram
from dynexport.errors import CalibrationError, unknown_choice

LEVELS = 127
"""Steps on either side of zero in symmetric int8."""

CANDIDATES = 100
"""Thresholds that ``mse`` compares, from the maximum down to a hundredth of it."""

ENTROPY_STRIDE = 8
"""Bins between two thresholds that ``entropy`` compares."""


def threshold(
    histogram: Histogram, method: str, *, levels: int = LEVELS, percentile: float = 99.99
) -> float:
    """The magnitude to clip at, above zero and at most the largest counted.

    ``method`` is one of `METHODS`; ``percentile`` is the share of values, in per cent, that the
    method of that name does not clip. 1.0 for a tensor that was zero throughout; never so small
    that a step is no normal float32, nor so large that the steps add up to more than one.
    CalibrationError for a wrong name or share.
    """
    require_method(method)
    if levels < 1 or not 0 < percentile <= 100:
        raise CalibrationError(
            f"{levels} levels and percentile {percentile} were asked for: expected at least 1 "
            "level and a percentile above 0, at most 100"
        )
    if not histogram.maximum:
        return 1.0
    found = _METHODS[method](histogram, levels, percentile)
    numbers = np.finfo(np.float32)
    least, most = float(numbers.tiny) * levels, float(numbers.max) / 2
    return min(max(min(found, histogram.maximum), least), most)


def require_method(name: str) -> None:
    """CalibrationError unless a method has this name."""
    if name not in METHODS:
        raise CalibrationError(unknown_choice("calibration method", name, METHODS))


def quantise(values: NDArray[Any], limit: Any, levels: int = LEVELS) -> NDArray[np.float32]:
    """Values rounded to ``levels`` steps on either side of zero and clipped at ``limit``.

    The limit is one number or broadcasts; float32, of the same shape.
    """
    step = np.asarray(limit, dtype=np.float32) / np.float32(levels)
    rounded = np.clip(np.rint(values / step), -levels, levels) * step
    return np.asarray(rounded, dtype=np.float32)


@dataclass(frozen=True)
class Choice:
    """A method, its threshold, and what each method gave: the relative L2 error of a layer."""

    method: str
    threshold: float
    errors: Mapping[str, float]


def choose_threshold(
    histogram: Histogram,
    rows: NDArray[np.float32],
    weights: NDArray[np.float32],
    methods: Iterable[str] = (),
    *,
    levels: int = LEVELS,
    weight_levels: int = LEVELS,
    percentile: float = 99.99,
) -> Choice:
    """The method (of all, or of ``methods``) that quantises a layer best.

    ``histogram`` holds the left factor's values on some images, ``rows`` (R, C) a few of its rows
    on others, held out; ``weights`` are (C, N). Each method's threshold is judged by the L2
    distance of quantised rows @ quantised weights from rows @ weights, relative to the latter.
    Of equals the first in `METHODS` wins. CalibrationError if there are no rows.
    """
    asked = tuple(methods) or METHODS
    for name in asked:
        require_method(name)
    if not len(rows):
        raise CalibrationError(f"{histogram.name} has no held-out rows to choose a threshold by")
    exact = rows @ weights
    size = float(np.linalg.norm(exact)) or 1.0
    largest = np.abs(weights).max(axis=0, keepdims=True)
    rounded = quantise(weights, np.where(largest > 0, largest, 1.0), weight_levels)
    limits = {
        name: threshold(histogram, name, levels=levels, percentile=percentile)
        for name in METHODS
        if name in asked
    }
    errors = {
        name: float(np.linalg.norm(quantise(rows, limit, levels) @ rounded - exact)) / size
        for name, limit in limits.items()
    }
    best = min(errors, key=lambda name: errors[name])
    return Choice(best, limits[best], MappingProxyType(errors))


def expected_error(
    histogram: Histogram, limits: NDArray[np.float64], levels: int = LEVELS
) -> NDArray[np.float64]:
    """Mean squared error of rounding and clipping at each of the ``limits`` (T,), float64 (T,).

    Exact for values spread evenly inside each bin: the error is integrated in closed form.
    """
    edges = np.arange(BINS + 1) * histogram.width
    steps = limits[:, None] / levels
    inside = np.minimum(edges, limits[:, None]) / steps
    whole = np.floor(inside + 0.5)
    rounding = steps**3 * (whole / 12 + (inside - whole) ** 3 / 3)
    clipping = np.maximum(edges - limits[:, None], 0.0) ** 3 / 3
    density = histogram.counts / (histogram.total * histogram.width)
    return np.asarray(np.diff(rounding + clipping, axis=1) @ density, dtype=np.float64)


def _maximum(histogram: Histogram, levels: int, percentile: float) -> float:
    """Clip nothing."""
    return histogram.maximum


def _percentile(histogram: Histogram, levels: int, percentile: float) -> float:
    """Clip the largest few: the upper edge of the bin where this share of values ends."""
    wanted = histogram.total * (percentile / 100)
    last = int(np.searchsorted(np.cumsum(histogram.counts), wanted))
    return (last + 1) * histogram.width


def _mse(histogram: Histogram, levels: int, percentile: float) -> float:
    """Make the expected squared error of rounding and clipping the least."""
    limits = np.geomspace(histogram.maximum, histogram.maximum / 100, CANDIDATES)
    return float(limits[np.argmin(expected_error(histogram, limits, levels))])


def _entropy(histogram: Histogram, levels: int, percentile: float) -> float:
    """Lose the least information: the threshold whose clipped distribution differs least, by
    Kullback-Leibler divergence, from itself joined to ``levels + 1`` bins.

    After S. Migacz, 8-bit inference with TensorRT (NVIDIA, GTC 2017), with every eighth bin a
    candidate.
    """
    used = int(histogram.maximum / histogram.width) + 1
    joined = levels + 1
    ends = range(used, min(joined, used) - 1, -ENTROPY_STRIDE)
    counts = histogram.counts.astype(np.float64)
    divergences = [_divergence(counts[:used], end, joined) for end in ends]
    return ends[int(np.argmin(divergences))] * histogram.width


def _divergence(counts: NDArray[np.float64], end: int, joined: int) -> float:
    """Of the first ``end`` bins, the others clipped into the last, from the same bins joined to
    ``joined`` and spread over those that are not empty again."""
    kept = counts[:end]
    filled = kept > 0
    clipped = counts[end:].sum()
    if not filled.any() or (clipped and not filled[-1]):
        return math.inf
    starts = np.unique(np.arange(joined) * end // joined)
    sums = np.add.reduceat(kept, starts)
    spread = sums / np.maximum(np.add.reduceat(filled, starts, dtype=np.float64), 1)
    candidate = np.repeat(spread, np.diff(starts, append=end))[filled]
    reference = kept[filled]
    reference[-1] += clipped
    reference /= reference.sum()
    candidate /= candidate.sum()
    return float(reference @ np.log(reference / candidate))


_METHODS: Mapping[str, Callable[[Histogram, int, float], float]] = MappingProxyType(
    {"min-max": _maximum, "percentile": _percentile, "entropy": _entropy, "mse": _mse}
)

METHODS = tuple(_METHODS)
"""How to find a threshold, by name."""
