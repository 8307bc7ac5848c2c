"""Two sets of answers: the same, a tie, or a fault; and nothing is no proof."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynexport.compare.answers import Answers, compare
from dynexport.compare.tolerances import Tolerances
from dynexport.errors import InputError

TOLERANCES = Tolerances("max", outputs=1e-3, tie_margin=1e-3, ranking=1e-2)

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=16))
SCORES = arrays(np.float32, (3, 6), elements=st.floats(-1, 1, width=16))


def answers(logits: np.ndarray, scores: np.ndarray, count: int = 2) -> Answers:
    """One stage that keeps the best."""
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return Answers({"logits": logits}, (kept,), (scores,))


@given(LOGITS, SCORES)
def test_answers_agree_with_themselves(logits: np.ndarray, scores: np.ndarray) -> None:
    same = answers(logits, scores)
    result = compare(same, same, TOLERANCES)
    assert result.passed
    assert result.errors["logits"].max_abs == 0.0
    assert (result.stages[0].overlap, result.stages[0].ties, result.stages[0].inversion) == (
        *(1.0, 0),
        0.0,
    )


@given(LOGITS, SCORES, st.integers(0, 2), st.integers(0, 3), st.floats(-1, 1))
def test_an_output_passes_to_the_tolerance_and_no_further(
    logits: np.ndarray, scores: np.ndarray, row: int, column: int, change: float
) -> None:
    changed = logits.astype(np.float64)
    changed[row, column] += change
    result = compare(answers(logits, scores), answers(changed, scores), TOLERANCES)
    largest = max(1.0, float(np.abs(logits).max()))
    away = abs(changed[row, column] - float(logits[row, column]))
    assert result.passed == (away <= TOLERANCES.outputs * largest)
    assert result.errors["logits"].relative == pytest.approx(away / largest)


@given(SCORES, st.integers(0, 2**31))
def test_another_choice_passes_where_scores_are_tied(scores: np.ndarray, seed: int) -> None:
    """Scores a little otherwise: what is swapped lies within twice the change of the cut."""
    change = np.random.default_rng(seed).uniform(-4e-4, 4e-4, scores.shape)
    logits = np.zeros((3, 4), np.float32)
    result = compare(answers(logits, scores), answers(logits, scores + change), TOLERANCES)
    assert result.passed, result.failures
    assert result.stages[0].faults == 0


def test_a_fault_is_named_by_its_stage() -> None:
    logits, scores = np.zeros((1, 2), np.float32), np.array([[3.0, 2.0, 1.0]], np.float32)
    theirs = answers(logits, scores)
    ours = dataclasses.replace(theirs, kept=(np.array([[0, 2]]),))
    assert compare(theirs, ours, TOLERANCES).failures == (
        "stage 1 swapped 1 tokens that rounding does not explain (overlap 50.0%)",
    )


@pytest.mark.parametrize(
    ("outputs", "failure"),
    [
        ({}, "nothing was compared: there is no output"),
        (
            {"logits": np.zeros((0, 4), np.float32)},
            "logits holds nothing to compare: its shape is [0, 4]",
        ),
    ],
)
def test_nothing_compared_has_not_passed(outputs: dict[str, np.ndarray], failure: str) -> None:
    result = compare(Answers(outputs), Answers(outputs), TOLERANCES)
    assert not result.passed
    assert result.failures == (failure,)


def test_stages_that_one_side_does_not_tell_are_no_answer() -> None:
    theirs = answers(np.zeros((3, 4), np.float32), np.zeros((3, 6), np.float32))
    with pytest.raises(ValueError, match="shorter"):
        compare(theirs, Answers(theirs.outputs), TOLERANCES)


@given(LOGITS, SCORES, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 1))
def test_what_is_no_number_fails_on_either_side(
    logits: np.ndarray, scores: np.ndarray, wrong: float, side: int
) -> None:
    """Whatever is compared with it: the same again as well."""
    for spoilt in (0, 1):
        pair = [logits.copy(), scores.astype(np.float64)]
        pair[spoilt][1, 1] = wrong
        kept = answers(logits, scores).kept
        broken = Answers({"logits": pair[0]}, kept, (pair[1],))
        sound = answers(logits, scores)
        both = (broken, sound) if side else (sound, broken)
        for first, second in (both, (broken, broken)):
            # in PyTorch's scores it says that a token was not ranked
            unranked = bool(spoilt) and wrong == -np.inf and first is broken
            assert compare(first, second, TOLERANCES).passed <= unranked
            assert np.isfinite(compare(first, second, TOLERANCES).errors["logits"].scale)


@pytest.mark.parametrize("limit", [np.inf, np.nan, -1.0])
@pytest.mark.parametrize("name", ["outputs", "tie_margin", "ranking"])
def test_a_limit_that_is_no_number_is_refused(name: str, limit: float) -> None:
    with pytest.raises(InputError, match="is not valid: what it allows has to be a number"):
        dataclasses.replace(TOLERANCES, **{name: limit})
