"""Quotients of times: what rounds that were made up must give, and when they give nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dynexport.bench.ratios import MAX_ERROR, MIN_ROUNDS, Ratio


@dataclass(frozen=True)
class Times:
    rounds: tuple[float, ...]


def ratio_of(*quotients: float) -> Ratio:
    return Ratio.of(Times(quotients), Times((1.0,) * len(quotients)))


def test_rounds_are_paired() -> None:
    """A machine that slows down tenfold in a round slows both."""
    slow, fast = Times((2.0, 30.0, 4.0)), Times((1.0, 10.0, 4.0))
    assert Ratio.of(slow, fast).median == 2.0


def test_one_round_says_nothing_of_its_error() -> None:
    alone = ratio_of(3.524)
    assert (alone.median, alone.error) == (3.524, None)
    assert alone.unsettled == f"not settled: 1 round, give at least {MIN_ROUNDS} with `rounds`"
    assert alone.told() == "not settled"


def test_rounds_that_agree_by_chance_are_still_too_few() -> None:
    """Of two alike the error would be 0."""
    few = ratio_of(*[1.6] * (MIN_ROUNDS - 1))
    assert few.error == pytest.approx(0.0, abs=1e-12)
    assert few.unsettled
    assert not ratio_of(*[1.6] * MIN_ROUNDS).unsettled


def test_the_error_is_that_of_a_median() -> None:
    """For normal rounds sqrt(pi / 2) of the mean's."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(50):
        found = ratio_of(*(1.5 + 0.1 * rng.standard_normal(25))).error
        assert found is not None
        errors.append(found)
    assert np.mean(errors) == pytest.approx(np.sqrt(np.pi / 2) * 0.1 / 5, rel=0.15)


@pytest.mark.parametrize("disturbed", [0.0, 0.2])
def test_the_truth_is_within_twice_the_error(disturbed: float) -> None:
    """Nineteen times in twenty, whether or not a machine has slow phases, from the fewest on."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        quotients = 1.5 + 0.03 * rng.standard_normal(MIN_ROUNDS)
        quotients += 0.4 * (rng.random(MIN_ROUNDS) < disturbed / 2)
        quotients -= 0.3 * (rng.random(MIN_ROUNDS) < disturbed / 2)
        found = ratio_of(*quotients)
        assert found.error is not None
        held += abs(found.median - 1.5) <= 2 * found.error
    assert held >= 270


def test_the_limit_is_a_share_of_the_quotient() -> None:
    at, over = Ratio(2.0, 2.0 * MAX_ERROR, 10), Ratio(2.0, 2.02 * MAX_ERROR, 10)
    assert at.unsettled == ""
    assert at.told(2) == "2.00 ± 0.10"
    assert "10 rounds with a standard error of 5.1%, of which 5% is allowed" in over.unsettled
    assert over.scaled(0.5).unsettled == over.unsettled
    assert at.scaled(0.5) == Ratio(1.0, MAX_ERROR, 10)


def test_two_files_that_are_the_same_are_not_told_apart() -> None:
    """Once 1.60 and 1.52 stood in one report, of two files of the same bytes."""
    one, other = Ratio(1.60, 0.05, 10), Ratio(1.52, 0.05, 10)
    assert one.beyond(other.median) is None
    assert other.beyond(one.median) is None


@pytest.mark.parametrize(
    ("ratio", "pays"),
    [
        (Ratio(1.1, 0.02, 10), True),
        (Ratio(0.9, 0.02, 10), False),
        (Ratio(1.03, 0.02, 10), None),
        (Ratio(0.97, 0.02, 10), None),
        (Ratio(1.1, 0.0, 4), None),
        (Ratio(3.0, 0.5, 10), None),
        (Ratio(1.0, 0.0, 10), None),
    ],
)
def test_what_is_within_twice_the_error_is_neither(ratio: Ratio, pays: bool | None) -> None:
    assert ratio.beyond(1.0) is pays
