"""What is observed of an activation, batch by batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.values import heavy, normal, observe, same

from dynexport.errors import CalibrationError


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 120), max_size=3), st.integers(0, 40), st.integers(0, 3))
def test_batches_do_not_change_what_is_observed(cuts: list[int], limit: int, seed: int) -> None:
    values = heavy(120 * 5).reshape(120, 5)
    whole = observe(values, limit=limit, seed=seed)
    parts = observe(*np.split(values, sorted(cuts)), limit=limit, seed=seed)
    assert np.array_equal(whole.rows, parts.rows)
    assert np.array_equal(whole.channel_maximum, np.abs(values).max(axis=0))
    assert np.array_equal(parts.channel_maximum, whole.channel_maximum)
    assert same(whole.histogram, parts.histogram)
    assert len(whole.rows) == limit
    places = [np.flatnonzero((values == row).all(axis=1)).item() for row in whole.rows]
    assert places == sorted(set(places))


def test_rows_are_drawn_evenly_from_all_that_came() -> None:
    values = np.arange(1000.0).reshape(10, 20, 5, 1)
    drawn = np.concatenate([observe(*values, seed=seed).rows for seed in range(200)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1000))
    assert counts.sum() == 3200
    assert (abs(counts - 320) < 5 * 320**0.5).all()


def test_values_of_any_shape_are_rows_of_their_last_axis() -> None:
    values = normal(2, 3, 4, 5)
    found = observe(values, limit=99)
    assert np.array_equal(found.rows, values.reshape(-1, 5))
    assert np.array_equal(observe(values[0, 0, 0]).rows, values[0, 0, :1])
    assert observe(values[:0]).histogram.total == 0
    with pytest.raises(CalibrationError, match="x has 4 channels on one image and 5 on another"):
        found.add(values[..., :4])


def test_what_is_observed_is_a_copy() -> None:
    values = normal(4, 5)
    found = observe(values)
    kept = values.copy()
    values[:] = 0
    assert np.array_equal(found.rows, kept)
