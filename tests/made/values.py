"""Activations: drawn, heavy-tailed, and observed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dynexport.calibration import (
    Histogram,
    Observation,
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


tensors = hnp.arrays(np.float32, st.integers(0, 60), elements=finite)


def histogram_of(*parts: NDArray[Any]) -> Histogram:
    histogram = Histogram("x")
    for part in parts:
        histogram.add(part)
    return histogram


def same(first: Histogram, second: Histogram) -> bool:
    facts = [(h.exponent, h.maximum, h.total) for h in (first, second)]
    return facts[0] == facts[1] and np.array_equal(first.counts, second.counts)


def heavy(count: int = 50_000, seed: int = 0) -> NDArray[np.float32]:
    """Many small values and a few that are large."""
    return np.random.default_rng(seed).standard_t(3, count).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def observe(*parts: NDArray[Any], limit: int = 16, seed: int = 0) -> Observation:
    observation = Observation("x", limit=limit, seed=seed)
    for part in parts:
        observation.add(part)
    return observation
