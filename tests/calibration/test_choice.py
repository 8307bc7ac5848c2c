"""Which threshold is chosen: by the error it causes in the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made.values import heavy, histogram_of, normal
from numpy.typing import NDArray

from dynexport.calibration import (
    METHODS,
    choose_threshold,
    threshold,
)
from dynexport.errors import CalibrationError


def product_error(rows: NDArray[Any], weights: NDArray[Any], limit: float, levels: int) -> float:
    """By hand, in float64."""
    step = limit / 127
    quantised = np.clip(np.rint(rows / step), -127, 127) * step
    steps = np.abs(weights).max(axis=0) / levels
    exact = rows.astype(float) @ weights
    return float(
        np.linalg.norm(quantised @ (np.rint(weights / steps) * steps) - exact)
        / np.linalg.norm(exact)
    )


@pytest.mark.parametrize("weight_levels", [63, 127])
def test_the_choice_is_the_method_whose_product_comes_nearest(weight_levels: int) -> None:
    histogram = histogram_of(heavy())
    rows, weights = heavy(64 * 24, seed=1).reshape(64, 24), normal(24, 10)
    found = choose_threshold(histogram, rows, weights, weight_levels=weight_levels)
    expected = {
        name: product_error(rows, weights, threshold(histogram, name), weight_levels)
        for name in METHODS
    }
    assert list(found.errors) == list(METHODS)
    assert dict(found.errors) == pytest.approx(expected, rel=1e-3)
    assert found.method == min(expected, key=lambda name: expected[name])
    assert found.threshold == threshold(histogram, found.method)


def test_it_is_the_rows_held_out_that_decide() -> None:
    histogram = histogram_of(heavy())
    weights = normal(8, 4)
    large = np.full((4, 8), histogram.maximum, dtype=np.float32)
    small = normal(4, 8)
    assert choose_threshold(histogram, large, weights).method == "min-max"
    assert choose_threshold(histogram, small, weights).method != "min-max"


def test_only_the_methods_asked_for_are_tried_in_the_usual_order() -> None:
    histogram = histogram_of(heavy())
    rows, weights = heavy(80).reshape(10, 8), normal(8, 4)
    found = choose_threshold(histogram, rows, weights, ["mse", "percentile"])
    assert list(found.errors) == ["percentile", "mse"]
    with pytest.raises(CalibrationError, match="unknown calibration method 'max'"):
        choose_threshold(histogram, rows, weights, ["max"])


def test_of_equals_the_first_is_chosen() -> None:
    rows = np.zeros((3, 4), dtype=np.float32)
    for weights in (normal(4, 2), np.zeros((4, 2), dtype=np.float32)):
        found = choose_threshold(histogram_of(heavy()), rows, weights, ["mse", "percentile"])
        assert set(found.errors.values()) == {0.0}
        assert found.method == "percentile"


def test_an_output_channel_without_weights_is_no_division_by_zero() -> None:
    weights = normal(8, 4)
    weights[:, 2] = 0.0
    with np.errstate(all="raise"):
        found = choose_threshold(histogram_of(heavy()), heavy(80).reshape(10, 8), weights)
    assert all(np.isfinite(error) and error < 1 for error in found.errors.values())


def test_without_rows_nothing_is_chosen() -> None:
    with pytest.raises(CalibrationError, match="x has no held-out rows"):
        choose_threshold(histogram_of(heavy()), np.zeros((0, 8), np.float32), normal(8, 4))
