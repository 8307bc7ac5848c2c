"""Histograms of activations: exact where they must be, whatever the order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.values import heavy, histogram_of, same, tensors
from numpy.typing import NDArray

from dynexport.calibration import (
    Histogram,
    Observation,
)
from dynexport.calibration.histogram import BINS
from dynexport.errors import CalibrationError


@settings(deadline=None, max_examples=40)
@given(st.lists(tensors, max_size=5), st.randoms(use_true_random=False))
def test_neither_order_nor_batches_nor_merging_change_a_histogram(
    parts: list[NDArray[np.float32]], random: Any
) -> None:
    whole = histogram_of(*parts)
    shuffled = random.sample(parts, len(parts))
    assert same(histogram_of(*shuffled), whole)
    assert same(histogram_of(np.concatenate([*shuffled, np.zeros(0, np.float32)])), whole)
    merged = Histogram("x")
    for part in shuffled:
        merged.merge(histogram_of(part))
    assert same(merged, whole)


@settings(deadline=None, max_examples=40)
@given(tensors)
def test_every_value_is_counted_in_its_own_bin(values: NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    magnitudes = np.abs(values.astype(np.float64))
    assert histogram.total == len(values)
    assert histogram.maximum == magnitudes.max(initial=0.0)
    expected, _ = np.histogram(magnitudes, bins=np.arange(BINS + 1) * histogram.width)
    assert np.array_equal(histogram.counts, expected)
    if histogram.maximum:
        assert histogram.width * BINS / 2 <= histogram.maximum < histogram.width * BINS


def test_more_values_than_are_counted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = heavy(10_000)
    whole = histogram_of(values)
    monkeypatch.setattr("dynexport.calibration.histogram.CHUNK", 777)
    assert same(histogram_of(values.reshape(10, 10, 100)), whole)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_no_finite_number_names_the_tensor(wrong: float) -> None:
    observation = Observation("blocks.3/fc1")
    with pytest.raises(CalibrationError, match=r"blocks\.3/fc1 takes values that are no finite"):
        observation.add(np.array([[0.0, wrong]]))
    assert observation.histogram.total == 0
    assert len(observation.rows) == 0


def test_half_precision_and_negative_values_count_by_magnitude() -> None:
    values = np.array([-3.0, 1.5, 0.0, 2.0])
    assert same(histogram_of(values.astype(np.float16)), histogram_of(-values))
