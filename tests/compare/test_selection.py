"""Ties and faults, ranking, sets that cannot be: the selection judged by its numbers alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynexport.compare.selection import (
    StageChoice,
    best_of_own,
    choice_failures,
    gap_at_cut,
    judge_selection,
    largest_inversion,
    possible_choices,
    scores_alike,
    settled_choices,
    tied_rows,
)
from dynexport.conversion import Conversion
from dynexport.precision import choose_tolerances
from dynexport.schedule import Selection

NEAR, GONE = 1.0 - 5e-5, float("-inf")


@pytest.mark.parametrize(
    ("scores", "ours", "expected"),
    [
        ([2.0, 1.0, 0.5, -1.0], [1, 0], (1.0, 0, 0)),
        ([2.0, 1.0, NEAR, -1.0], [0, 2], (0.5, 2, 0)),
        ([2.0, 1.0, 1.0, -1.0], [0, 2], (1.0, 0, 0)),
        ([2.0, 1.0, 0.99, -1.0], [0, 2], (0.5, 1, 1)),
        ([2.0, 1.0, NEAR, -1.0], [1, 2], (0.5, 1, 1)),
        ([2.0, 1.0, 0.5, GONE], [0, 3], (0.5, 1, 1)),
        ([2.0, 1.0, 0.5, -1.0], [0, 0], (0.5, 1, 1)),
        ([2.0, 1.0, 0.5, -1.0], [0, 77], (0.5, 1, 1)),
        ([2.0, 1.0, 0.5, -1.0], [0, -1], (0.5, 1, 1)),
        ([float("nan"), 1.0, 0.5, -1.0], [1, 2], (0.5, 0, 2)),
    ],
    ids=[
        *("equal", "tie", "exact tie", "fault", "tie for fault", "dropped before", "twice"),
        *("off the grid", "nowhere", "nan"),
    ],
)
def test_ties_and_faults(
    scores: list[float], ours: list[int], expected: tuple[float, int, int]
) -> None:
    """Two of four are kept; 1e-4 of the largest score, 2, is rounding."""
    assert judge_selection(np.array([scores], np.float32), np.array([ours]), 1e-4) == expected


def test_small_scores_are_measured_against_one() -> None:
    scores = np.array([[2e-5, 1e-5, -1e-5]], np.float32)
    assert judge_selection(scores, np.array([[2]]), 1e-4)[1:] == (2, 0)
    assert judge_selection(scores, np.array([[2]]), 1e-6)[1:] == (1, 1)


@given(
    st.lists(st.integers(-8, 8), min_size=2, max_size=12),
    st.integers(1, 11),
    st.randoms(use_true_random=False),
)
def test_any_best_set_has_no_swap_and_any_other_has(
    numbers: list[int], count: int, random: Any
) -> None:
    count = min(count, len(numbers))
    scores = np.array([numbers], np.float32)
    order = sorted(range(len(numbers)), key=lambda place: (-numbers[place], random.random()))
    share, ties, faults = judge_selection(scores, np.array([order[:count]]), 0.0)
    assert (share, ties, faults) == (1.0, 0, 0)
    other = random.sample(range(len(numbers)), count)
    is_best = sorted(numbers[p] for p in other) == sorted(numbers[p] for p in order[:count])
    assert (judge_selection(scores, np.array([other]), 0.0)[0] == 1.0) == is_best


@pytest.mark.parametrize(
    ("own", "inversion"),
    [
        ([4.0, 3.0, 2.0, 1.0], 0.0),
        ([400.0, 0.3, 0.2, -1e6], 0.0),
        ([1.0, 1.0, 1.0, 1.0], 0.0),
        ([4.0, 3.0, 1.0, 2.0], 0.25),
        ([1.0, 2.0, 3.0, 4.0], 0.75),
        ([4.0, float("nan"), 2.0, 1.0], float("inf")),
    ],
    ids=["same", "another scale", "level", "last two", "upside down", "nan"],
)
def test_ranking_counts_and_not_scale(own: list[float], inversion: float) -> None:
    theirs = np.array([[4.0, 3.0, 2.0, 1.0]], np.float32)
    assert largest_inversion(theirs, np.array([own])) == inversion


def test_tokens_that_were_not_ranked_are_left_out_of_the_ranking() -> None:
    theirs = np.array([[4.0, GONE, 2.0]], np.float32)
    assert largest_inversion(theirs, np.array([[4.0, GONE, 2.0]])) == 0.0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([0, 2], True), ([2, 0], True), ([0, 1], False), ([0, 9], False), ([0], False)],
)
def test_a_choice_is_the_best_of_its_own_scores(rows: list[int], expected: bool) -> None:
    """The class token's score is pinned far above; only real ones set the scale."""
    scores = np.array([1e30, 0.1, 0.2, 0.1])[None, :, None]
    assert best_of_own(np.array(rows)[None, :, None], scores, 2).tolist() == [expected]


def test_choices_that_cannot_be(tiny_conversion: Conversion) -> None:
    facts = dataclasses.replace(
        tiny_conversion.metadata,
        num_tokens=6,
        keep_counts=(3, 2),
        selection=Selection(nested=True, leading=1, appended=1),
    )
    first = np.array([[5, 1, 3]] * 6 + [[5, 5, 3], [6, 1, 3], [-1, 1, 3]])
    second = np.array([[1, 5], [3, 6], [1, 1], [1, 2], [1, 7], [-1, 1], [5, 3], [1, 3], [1, 3]])
    sound = possible_choices((first, second), facts).tolist()
    assert sound == [True, True, *[False] * 7]
    whole = dataclasses.replace(facts, selection=Selection(nested=False))
    assert possible_choices((first, second), whole).tolist() == [
        *(True, False, False, True, False, False),
        *(False, False, False),
    ]


def test_what_is_settled_leaves_a_gap_at_every_cut() -> None:
    wide, close = [3.0, 2.0, 1.0], [3.0, 2.0, 2.0 - 1e-4]
    scores = (np.array([wide, wide, close], np.float32), np.array([wide, close, wide], np.float32))
    assert settled_choices(scores, (2, 2), 1e-4).tolist() == [True, False, False]
    assert settled_choices(scores, (3, 1), 1e-4).tolist() == [True, True, True]


def test_failures_name_the_stage_and_what_is_wrong() -> None:
    fp32 = choose_tolerances("fp32")
    sound = StageChoice(overlap=1.0, ties=4, faults=0, inversion=0.0)
    assert choice_failures(1, sound, fp32) == ()
    faulty = dataclasses.replace(sound, faults=3, overlap=0.9, inversion=0.01)
    assert choice_failures(2, faulty, fp32) == (
        "stage 2 swapped 3 tokens that rounding does not explain (overlap 90.0%)",
    )
    assert choice_failures(3, dataclasses.replace(sound, inversion=0.01), fp32) == (
        "stage 3 ranks tokens the other way round that score 0.01 of the largest apart, more than "
        "0.0001 allows",
    )


@given(
    st.lists(st.integers(-8, 8), min_size=3, max_size=12), st.integers(1, 3), st.integers(0, 2**31)
)
def test_the_gap_at_the_cut_is_what_the_worst_token_kept_lacks(
    numbers: list[int], count: int, seed: int
) -> None:
    scores = np.array([numbers], np.float32)
    kept = np.random.default_rng(seed).permutation(len(numbers))[None, :count]
    best = sorted(numbers)[-count:]
    assert gap_at_cut(scores, kept) == best[0] - min(numbers[place] for place in kept[0])
    assert gap_at_cut(scores, np.argsort(-scores, axis=1)[:, :count]) == 0.0


@pytest.mark.parametrize(
    ("scores", "ours", "tied"),
    [
        ([[2.0, 1.0, 0.5]], [[0, 1]], False),
        ([[2.0, 1.0, NEAR]], [[0, 2]], True),
        ([[2.0, 1.0, 0.9]], [[0, 2]], False),
        ([[2.0, 1.0, NEAR]], [[2, 0]], False),
    ],
    ids=["alike", "tie", "fault", "another order"],
)
def test_a_row_is_tied_by_the_first_choice_ordered_otherwise(
    scores: list[list[float]], ours: list[list[int]], tied: bool
) -> None:
    first = np.array([[0, 1]])
    ranked, order = np.array(scores, np.float32), np.array(ours)
    assert tied_rows([ranked], [first], [order], 1e-4).tolist() == [tied]
    far = np.array([[5.0, 4.0, 1.0]], np.float32)
    after = tied_rows([ranked, far], [first, first], [order, np.array([[0, 2]])], 1e-4)
    assert after.tolist() == [tied]  # what follows a tie says nothing


@pytest.mark.parametrize(
    ("scores", "alike"),
    [
        ([[0.5, 0.5, 0.5]], True),
        ([[-7.0, -7.0 * (1 + 1e-7), -np.inf]], True),
        ([[0.0, 0.0], [3.0, 3.0]], True),
        ([[0.5, 0.5001, 0.5]], False),
        ([[1e-9, 2e-9]], False),
        ([[0.5, 0.5], [0.5, 0.6]], False),
        ([[0.5, -np.inf]], False),
        (np.zeros((0, 4)), False),
    ],
    ids=["equal", "rounding", "each image", "near", "tiny", "one image", "one token", "none"],
)
def test_scores_that_are_one_are_told(scores: list[list[float]], alike: bool) -> None:
    assert scores_alike(np.array(scores)) is alike
