"""Outputs by their numbers: errors, agreement, and the tolerances they are held to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from dynexport.calibration.held_out import _nearness
from dynexport.compare.numbers import (
    Errors,
    agreement_failures,
    best_classes,
    cosines,
    error_failures,
    hits,
    judge_agreement,
    largest_error,
    measure_errors,
    relative_error,
    relative_lengths,
    require_numbers,
    share_of,
    usual_length,
)
from dynexport.compare.tolerances import Limits, Tolerances
from dynexport.conversion import Conversion
from dynexport.errors import InputError, VerificationError
from dynexport.precision import choose_tolerances
from dynexport.verify import verify_model

MAPS = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
"""One output (B, C, H, W) of a model, of order one."""


def judge_output(
    name: str, expected: np.ndarray, found: np.ndarray, tolerances: Tolerances
) -> tuple[Errors, tuple[str, ...]]:
    errors = measure_errors(expected, found)
    return errors, error_failures(name, expected, found, errors, tolerances)


FP32, INT8 = choose_tolerances("fp32"), choose_tolerances("int8")


def test_maps_are_judged_by_their_numbers_and_have_no_best_class() -> None:
    found = MAPS + np.float32(1e-5)
    errors, failures = judge_output("feat_0", MAPS, found, FP32)
    assert failures == ()
    assert errors.max_abs == pytest.approx(1e-5, rel=0.05)
    assert errors.scale == float(np.abs(MAPS).max())
    agreement = judge_agreement(MAPS, found)
    assert agreement is not None
    assert agreement.cosine == pytest.approx(1.0)
    assert (agreement.top1, agreement.top5, agreement.kl) == (None, None, None)


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (2, 1, 3, 3)])
def test_one_wrong_number_of_a_map_is_caught(place: tuple[int, ...]) -> None:
    wrong = MAPS.copy()
    wrong[place] += 0.01
    errors, failures = judge_output("feat_3", MAPS, wrong, FP32)
    assert errors.max_abs == pytest.approx(0.01, rel=1e-3)
    assert len(failures) == 1
    assert failures[0].startswith("feat_3 differs by 0.01, more than ")


def test_int8_is_measured_by_length_image_by_image() -> None:
    wrong, longest = MAPS.copy(), np.linalg.norm(MAPS.reshape(3, -1), axis=1).argmax()
    wrong[longest, 0, 0, 0] += 0.1  # beyond any maximum, but small beside the image
    assert judge_output("feat_0", MAPS, wrong, FP32)[1]
    errors, failures = judge_output("feat_0", MAPS, wrong, INT8)
    assert failures == ()
    assert errors.l2 == pytest.approx(0.1 / np.linalg.norm(MAPS[longest]), rel=1e-3)
    wrong[longest] = MAPS[longest] * 1.2
    errors, failures = judge_output("feat_0", MAPS, wrong, INT8)
    assert errors.l2 == pytest.approx(0.2, rel=1e-3)
    assert failures == ("feat_0 differs by 0.2 of its length, more than 0.12 allows",)


def test_an_answer_near_zero_is_measured_by_the_others_length() -> None:
    expected = np.array([[4.0, 3.0], [1e-9, 0.0], [0.0, 5.0]])
    found = expected.copy()
    found[1, 0] += 0.05
    assert usual_length(expected) == 5.0
    assert measure_errors(expected, found).l2 == pytest.approx(0.01)
    assert relative_lengths(expected, found).max() == pytest.approx(5e7)
    assert relative_lengths(np.zeros((2, 3)), np.zeros((2, 3))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("tolerances", [FP32, INT8])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_fails(tolerances: Tolerances, wrong: float) -> None:
    found = MAPS.copy()
    found[1, 1, 1, 1] = wrong
    assert judge_output("feat_0", MAPS, found, tolerances)[1]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_no_class_is_read_off_what_is_no_number(wrong: float) -> None:
    """As a sweep and a trial of calibration would."""
    logits = np.array([[0.0, 1.0], [wrong, 0.0]])
    require_numbers("logits", logits[:1])
    with pytest.raises(VerificationError, match="logits: 1 of 4 values are no finite numbers, so"):
        require_numbers("logits", logits)
    assert _nearness(np.float32([[0, 1], [1, 0]]), logits.astype(np.float32)) == (0.0, math.inf)


def test_an_output_of_another_shape_fails_with_both_shapes() -> None:
    _, failures = judge_output("feat_0", MAPS, MAPS[:, :, :2], FP32)
    assert failures == ("feat_0 has shape [3, 2, 2, 4], expected [3, 2, 4, 4]",)
    assert judge_agreement(MAPS, MAPS[:, :, :2]) is None
    assert judge_agreement(MAPS, MAPS * np.float32(np.inf)) is None


def test_classes_agree_by_the_best_and_by_the_best_five() -> None:
    expected = np.eye(8, dtype=np.float32)[[0, 1, 2, 3]] * 5
    found = expected.copy()
    found[1, 4] = 9.0  # its class comes second
    found[2] = [8, 7, 0, 5, 4, 3, 2, 1]  # and last
    agreement = judge_agreement(expected, found)
    assert agreement is not None
    assert (agreement.top1, agreement.top5) == (0.5, 0.75)
    assert agreement.cosine == pytest.approx(0.0, abs=1e-9)
    p, q = np.exp([5, *[0] * 7]), np.exp([5, 9, *[0] * 6])
    p, q = p / p.sum(), q / q.sum()
    second = float((p * np.log(p / q)).sum())
    assert agreement.max_kl is not None
    assert agreement.max_kl > second
    assert judge_agreement(expected[:2], found[:2]).max_kl == pytest.approx(second)  # type: ignore[union-attr]


@pytest.mark.parametrize(("classes", "known"), [(1, 0), (2, 1), (5, 1), (6, 2)])
def test_few_classes_leave_shares_out(classes: int, known: int) -> None:
    logits = np.arange(3 * classes, dtype=np.float32).reshape(3, classes)
    agreement = judge_agreement(logits, logits)
    assert agreement is not None
    assert [agreement.top1, agreement.top5] == [1.0] * known + [None] * (2 - known)


@pytest.mark.parametrize(
    ("turned", "told"),
    [(0.0, False), (0.2, False), (0.6, True)],
    ids=["the same", "a tie swapped", "every tie swapped"],
)
def test_an_output_that_goes_its_own_way_fails(turned: float, told: bool) -> None:
    """Numbers agree under one choice, and users get something else."""
    expected = np.random.default_rng(0).standard_normal((8, 10))
    other = np.random.default_rng(1).standard_normal((8, 10))
    agreement = judge_agreement(
        expected.astype(np.float32), expected * (1 - turned) + other * turned
    )
    failures = agreement_failures("logits", agreement)
    assert [failure[:37] for failure in failures] == [
        "logits, each with its own choice of t"
    ] * told
    assert agreement_failures("logits", None) == ()


def test_one_image_that_is_turned_round_fails() -> None:
    expected = np.ones((40, 3), np.float32)
    found = expected.copy()
    found[7] *= -1
    assert agreement_failures("logits", judge_agreement(expected, found))


def test_of_equal_logits_the_first_class_is_best() -> None:
    assert hits(np.zeros((2, 3)), np.array([0, 1]), 1) == 0.5
    assert hits(np.zeros((2, 3)), np.array([0, 1]), 2) == 1.0


def test_tolerances_widen_with_the_precision_and_are_replaced_one_by_one() -> None:
    names = ("fp32", "fp16", "bf16")
    usual = [choose_tolerances(name) for name in names]
    assert sorted(usual, key=lambda t: (t.outputs, t.tie_margin, t.ranking)) == usual
    assert choose_tolerances("of another tool") == usual[0]
    asked = choose_tolerances("int8", Limits(tie_margin=0.5, min_agreement=0.9, max_drop=1.0))
    assert asked == dataclasses.replace(
        INT8, tie_margin=0.5, ranking=0.5, min_agreement=0.9, max_drop=1.0
    )
    assert choose_tolerances("int8", Limits(tie_margin=0.0)).ranking == INT8.ranking


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        *(({"tolerance": bad}, "give a number above 0") for bad in (0.0, -1.0, math.nan, math.inf)),
        *(({"tie_margin": bad}, "give 0 or more") for bad in (-1e-9, math.nan, math.inf)),
        *(({"min_agreement": bad}, "give a share") for bad in (-0.1, 99.0, math.nan)),
    ],
)
def test_a_tolerance_that_is_none_is_refused(
    tiny_conversion: Conversion, asked: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=f"is not valid: {problem}"):
        verify_model(tiny_conversion.onnx, limits=Limits(**asked))


@pytest.mark.parametrize("drop", [-0.5, 101.0, math.nan])
def test_a_drop_that_is_none_is_refused(drop: float) -> None:
    with pytest.raises(InputError, match="points is not valid: give 0 to 100"):
        Limits(max_drop=drop)


def test_another_shape_is_a_departure() -> None:
    assert relative_error(np.zeros((2, 3)), np.zeros((2, 4)), 2) == math.inf


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([[3.0, 4.0, 1e30], [6.0, 8.0, -np.inf]], 0.0),
        ([[3.0, 4.0, 1e30], [6.0, 9.0, -np.inf]], 0.1),
        ([[3.0, 4.0, 0.0], [6.0, 8.0, -np.inf]], math.inf),
        ([[3.0, np.nan, 1e30], [6.0, 8.0, -np.inf]], math.inf),
        ([[3.0, 4.0, 1e30], [6.0, 8.0, 0.0]], math.inf),
    ],
    ids=["same", "worst image", "pin gone", "nan", "infinity gone"],
)
def test_errors_beside_pinned_scores(found: list[list[float]], error: float) -> None:
    sound = np.array([[3.0, 4.0, 1e30], [6.0, 8.0, -np.inf]])
    assert relative_error(sound, np.array(found), 2) == pytest.approx(error)


@pytest.mark.parametrize(
    ("expected", "found", "error"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), 0.0),
        (np.float32([1, 4]), np.float32([1, 5]), 0.25),
        (np.float32([0.1, 0.2]), np.float32([0.1, 0.3]), 0.1),
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), math.inf),
        (np.float32([np.inf, 4]), np.float32([np.inf, 4]), math.inf),
        (np.float32([np.inf, 4]), np.float32([-np.inf, 4]), math.inf),
        (np.float32([1, 4]), np.float32([np.nan, 4]), math.inf),
        (np.float32([1, 4]), np.float64([1, 4]), math.inf),
        (np.float32([1, 4]), np.float32([[1, 4]]), math.inf),
        (np.array([1, 4]), np.array([1, 4]), 0.0),
        (np.array([1, 4]), np.array([1, 5]), math.inf),
    ],
)
def test_any_two_arrays_have_an_error(
    expected: np.ndarray, found: np.ndarray, error: float
) -> None:
    assert largest_error(expected, found) == pytest.approx(error)


def test_shares_of_classes_and_cosines() -> None:
    logits = np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])
    assert best_classes(logits).tolist() == [1, 0]
    assert share_of(best_classes(logits), np.array([1, 2])) == 0.5
    assert hits(logits, best_classes(logits), 1) == 1.0
    zero = np.zeros((1, 2))
    assert cosines(zero, zero).tolist() == [1.0]
    assert cosines(zero, zero + 1).tolist() == [0.0]
    assert cosines(np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])) == pytest.approx([0.96])


@pytest.mark.parametrize("tolerances", [FP32, INT8])
def test_what_is_held_to_tolerances_is_what_fails(tolerances: Tolerances) -> None:
    for change in (1e-6, 1e-3, 0.05, 0.3):
        errors, failures = judge_output("feat_0", MAPS, MAPS * np.float32(1 + change), tolerances)
        error, allowed = errors.held_to(tolerances)
        assert bool(failures) == (error > allowed)
