"""Thresholds, by method, beside plain computations of the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from made.values import heavy, histogram_of, normal, tensors
from numpy.typing import NDArray

from dynexport.calibration import (
    METHODS,
    Histogram,
    quantise,
    threshold,
)
from dynexport.calibration.threshold import expected_error
from dynexport.errors import CalibrationError

TINY_STEP = float(np.finfo(np.float32).tiny)


@settings(deadline=None, max_examples=40)
@given(tensors, st.sampled_from(METHODS), st.integers(1, 255), st.floats(0.1, 100.0))
@example(np.zeros(3, np.float32), "entropy", 127, 99.99)
@example(np.full(3, 1e-45, np.float32), "mse", 127, 99.99)
@example(np.full(3, 3e38, np.float32), "mse", 127, 99.99)
@example(np.full(1, np.finfo(np.float32).max), "min-max", 25, 99.99)
@example(np.full(3, 2.0, np.float32), "percentile", 127, 99.99)
@example(np.array([0, 0, 0, 1], np.float32), "entropy", 255, 50.0)
def test_a_threshold_is_above_zero_and_at_most_the_maximum(
    values: NDArray[np.float32], method: str, levels: int, percentile: float
) -> None:
    histogram = histogram_of(values)
    found = threshold(histogram, method, levels=levels, percentile=percentile)
    floor = TINY_STEP * levels if histogram.maximum else 1.0
    assert min(floor, 1.0) <= found <= max(histogram.maximum, floor)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        assert np.isfinite(quantise(values, found, levels)).all()


@settings(deadline=None, max_examples=40)
@given(tensors)
def test_mse_expects_no_more_error_than_clipping_nothing(values: NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    assume(histogram.maximum > 1e-30)
    limits = np.array([threshold(histogram, name) for name in ("mse", "min-max")])
    chosen, plain = expected_error(histogram, limits)
    assert chosen <= plain


@pytest.mark.parametrize("values", [heavy(), normal(50_000), np.abs(normal(50_000)) ** 3])
def test_the_expected_error_is_that_of_quantising(values: NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    limits = np.geomspace(histogram.maximum, histogram.maximum / 50, 12)
    found = [np.mean((quantise(values, limit) - values) ** 2.0) for limit in limits]
    np.testing.assert_allclose(expected_error(histogram, limits), found, rtol=0.05)


def test_mse_finds_the_least_error_of_all_thresholds() -> None:
    values = heavy()
    limits = np.linspace(0.02, 1.0, 400) * np.abs(values).max()
    errors = [np.mean((quantise(values, limit) - values) ** 2.0) for limit in limits]
    found = threshold(histogram_of(values), "mse")
    assert np.mean((quantise(values, found) - values) ** 2.0) <= min(errors) * 1.02


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 100.0])
def test_percentile_clips_the_share_that_was_asked_for(percentile: float) -> None:
    values = heavy()
    histogram = histogram_of(values)
    found = threshold(histogram, "percentile", percentile=percentile)
    exact = float(np.percentile(np.abs(values), percentile, method="inverted_cdf"))
    assert abs(found - exact) <= 1.01 * histogram.width
    assert (np.abs(values) <= found).mean() * 100 >= percentile


def naive_entropy(histogram: Histogram, levels: int) -> float:
    """The published pseudocode, bin by bin."""
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    best, limit = np.inf, 0.0
    for end in range(used, levels, -8):
        reference = histogram.counts[:end].astype(float)
        clipped = histogram.counts[end:].sum()
        candidate = np.zeros(end)
        for level in range(levels + 1):
            first, last = level * end // (levels + 1), (level + 1) * end // (levels + 1)
            filled = [place for place in range(first, last) if reference[place] > 0]
            for place in filled:
                candidate[place] = sum(reference[first:last]) / len(filled)
        reference[-1] += clipped
        p, q = reference / reference.sum(), candidate / candidate.sum()
        if (q[p > 0] == 0).any():
            continue
        divergence = float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))
        if divergence < best:
            best, limit = divergence, end * histogram.width
    return min(limit, histogram.maximum)


@pytest.mark.parametrize("levels", [15, 127])
@pytest.mark.parametrize("seed", range(3))
def test_entropy_is_the_published_method(levels: int, seed: int) -> None:
    histogram = histogram_of(heavy(3000, seed))
    assert threshold(histogram, "entropy", levels=levels) == naive_entropy(histogram, levels)


def test_methods_differ_where_a_few_values_are_large() -> None:
    histogram = histogram_of(heavy())
    found = {name: threshold(histogram, name) for name in METHODS}
    assert found["min-max"] == histogram.maximum
    assert len(set(found.values())) == len(METHODS)


def test_wrong_wishes_are_refused() -> None:
    histogram = histogram_of(heavy(10))
    with pytest.raises(CalibrationError, match="'mes': did you mean 'mse'"):
        threshold(histogram, "mes")
    for levels, percentile in ((0, 99.0), (127, 0.0), (127, 100.1), (127, float("nan"))):
        with pytest.raises(CalibrationError, match="expected at least 1 level and a percentile"):
            threshold(histogram, "mse", levels=levels, percentile=percentile)


def test_quantising_is_symmetric_and_rounds_half_to_even() -> None:
    values = np.array([-200.0, -127.0, -2.5, -1.5, 0.4, 0.6, 2.5, 126.4, 300.0])
    expected = [-127.0, -127.0, -2.0, -2.0, 0.0, 1.0, 2.0, 126.0, 127.0]
    assert quantise(values, 127.0).tolist() == expected
    assert quantise(np.array([[0.2, 2.0]]), np.array([[0.3, 3.0]]), 3).tolist() == [
        [pytest.approx(0.2), pytest.approx(2.0)]
    ]
