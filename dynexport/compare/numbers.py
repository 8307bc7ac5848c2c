"""Outputs as numbers: under one choice, tightly; and running freely, as a user gets them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.tolerances import Tolerances
from dynexport.errors import VerificationError

TOP = 5
"""A class is well placed among so many best."""

PINNED = 1e20
"""A score above it is no predictor's: release 0.1.0 kept the class token in front by such a one."""

ALIKE_FREELY, WORST_FREELY = 0.9, 0.5
"""Cosines of an output with PyTorch's that ties leave, each with its own choice of tokens: the mean
over images, and the worst. Sound models keep 0.98 and 0.91, see docs/verification.md."""

PYTORCHS = "PyTorch's"
"""Whose answers are expected, in a sentence, unless it is told otherwise."""

TINY = float(np.finfo(np.float64).tiny)
"""A length is taken to be at least this, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Errors:
    """One output against PyTorch's under the same choice: numeric error alone.

    max_abs, mean_abs  of the differences
    l2                 the length of an image's difference relative to that of PyTorch's answer,
                       the largest
    scale              largest finite value of PyTorch's, by magnitude

    The first three are infinite where shapes differ, nothing was compared, or what was compared
    holds NaN or infinity; the scale never is, so neither is what it allows.
    """

    max_abs: float
    mean_abs: float
    l2: float
    scale: float

    @property
    def relative(self) -> float:
        """The largest difference relative to the largest value, but at least to one."""
        return self.max_abs / max(1.0, self.scale)

    def held_to(self, tolerances: Tolerances) -> tuple[float, float]:
        """What these tolerances measure of it, and how much of that they allow."""
        if tolerances.measure == "l2":
            return self.l2, tolerances.outputs
        return self.max_abs, tolerances.outputs * max(1.0, self.scale)


@dataclass(frozen=True)
class Agreement:
    """One output against PyTorch's, each with its own choice, over all images.

    cosine, mean_cosine  of an image's output and PyTorch's, the smallest and the mean
    top1                 share of images with the same best class
    top5                 share of images with PyTorch's best class among the five best
    kl, max_kl           Kullback-Leibler divergence of the classes' probabilities from PyTorch's,
                         nats, the mean and the largest

    None where an output has no classes, or there are too few classes.
    """

    cosine: float
    mean_cosine: float
    top1: float | None
    top5: float | None
    kl: float | None
    max_kl: float | None


def measure_errors(expected: NDArray[Any], found: NDArray[Any]) -> Errors:
    """Of one output, both (R, ...)."""
    theirs, ours = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(theirs)
    scale = float(np.abs(theirs[finite]).max(initial=0.0))
    comparable = ours.shape == theirs.shape and ours.size and finite.all()
    if not (comparable and np.isfinite(ours).all()):
        return Errors(np.inf, np.inf, np.inf, scale)
    differences = np.abs(ours - theirs)
    return Errors(
        max_abs=float(differences.max()),
        mean_abs=float(differences.mean()),
        l2=float(relative_lengths(theirs, ours, usual_length(theirs)).max()),
        scale=scale,
    )


def not_numbers(what: str, values: NDArray[Any]) -> tuple[str, ...]:
    """That ``what`` holds NaN or infinity, if it does: comparing with that says nothing."""
    wrong = int((~np.isfinite(values.astype(np.float64))).sum())
    return (f"{what}: {wrong} of {values.size} values are no finite numbers",) if wrong else ()


def require_numbers(what: str, values: NDArray[Any]) -> None:
    """VerificationError where ``what`` holds NaN or infinity, of which no class can be read."""
    for problem in not_numbers(what, values):
        raise VerificationError(f"{problem}, so nothing can be told of them")


def error_failures(
    name: str,
    expected: NDArray[Any],
    found: NDArray[Any],
    errors: Errors,
    tolerances: Tolerances,
    whose: str = PYTORCHS,
) -> tuple[str, ...]:
    """What is wrong with one output, whose errors were measured; sentences, or none.

    whose: what is expected, as in "PyTorch's".
    """
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.shape)}"
        return (f"{name} has shape {shapes}",)
    if not found.size:
        return (f"{name} holds nothing to compare: its shape is {list(found.shape)}",)
    unsound = (*not_numbers(f"{whose} {name}", expected), *not_numbers(name, found))
    if unsound:
        return unsound
    error, allowed = errors.held_to(tolerances)
    if error <= allowed < math.inf:
        return ()
    of_length = " of its length" if tolerances.measure == "l2" else ""
    return (f"{name} differs by {error:.3g}{of_length}, more than {allowed:.3g} allows",)


def largest_error(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest difference of any two arrays, relative to the largest value, at least to one.

    Infinite where shapes or types differ or a value is no finite number, and of anything but
    floats unless they are equal. Nothing differs from nothing.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if expected.dtype.kind != "f" or not expected.size:
        return 0.0 if np.array_equal(expected, found) else float("inf")
    return measure_errors(expected, found).relative


def relative_error(
    expected: NDArray[Any], found: NDArray[Any], batch: int, *, scores: bool = False
) -> float:
    """Length of the worst image's difference relative to that of its sound value.

    scores: what a Softmax takes. It makes factors of differences, so these count as they are where
    scores are below one: a row of small ones would show more rounding than the Softmax passes on.

    Infinite where shapes differ, or a number is missing or infinite on one side alone. Infinities,
    and scores that pin a class token above all others, must agree and are left out: beside them
    nothing else would show.
    """
    if expected.shape != found.shape:
        return float("inf")
    rows = batch if expected.ndim and expected.shape[0] % batch == 0 else 1
    theirs = expected.astype(np.float64).reshape(rows, -1)
    ours = found.astype(np.float64).reshape(rows, -1)
    plain = np.abs(theirs) < PINNED
    if not np.isclose(ours[~plain], theirs[~plain], rtol=0.01, equal_nan=True).all():
        return float("inf")
    theirs, ours = np.where(plain, theirs, 0.0), np.where(plain, ours, 0.0)
    if not np.isfinite(ours).all():
        return float("inf")
    least = math.sqrt(theirs.shape[1]) if scores else 0.0
    away = relative_lengths(theirs, ours, max(least, usual_length(theirs)))
    return float(away.max(initial=0.0))


def relative_lengths(
    expected: NDArray[Any], found: NDArray[Any], least: float = 0.0
) -> NDArray[np.float64]:
    """Per row ||found - expected|| / ||expected||, both (R, ...) of one shape: (R,).

    A row is taken to be at least ``least`` long.
    """
    theirs, ours = _rows(expected), _rows(found)
    away = np.linalg.norm(ours - theirs, axis=1)
    return np.asarray(away / np.maximum(np.linalg.norm(theirs, axis=1), max(least, TINY)))


def usual_length(expected: NDArray[Any]) -> float:
    """The median length of a row (R, ...).

    A row that happens to be near zero is taken to be as long, so that it is not measured by its own
    rounding.
    """
    return float(np.median(np.linalg.norm(_rows(expected), axis=1)))


def cosines(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Per row the cosine of the angle between both, (R, ...) of one shape: (R,); 1 of two zeros."""
    theirs, ours = _rows(expected), _rows(found)
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    cosine = (theirs * ours).sum(axis=1) / np.maximum(lengths, TINY)
    cosine[(lengths == 0) & (theirs == ours).all(axis=1)] = 1.0
    return np.asarray(cosine)


def judge_agreement(
    expected: NDArray[np.float32], found: NDArray[Any], by_class: bool = True
) -> Agreement | None:
    """What a user gets of one output (P, ...), beside PyTorch's.

    None where shapes differ, or a value of either is no finite number.

    Where it is (P, classes) its classes count too, unless ``by_class`` says that it has none.
    """
    if found.shape != expected.shape:
        return None
    theirs, ours = _rows(expected), _rows(found)
    if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return None
    near = cosines(theirs, ours)
    classes = expected.shape[1] if by_class and expected.ndim == 2 else 0
    apart = divergences(theirs, ours) if classes > 1 else None
    best = best_classes(theirs)
    return Agreement(
        cosine=float(near.min()),
        mean_cosine=float(near.mean()),
        top1=hits(ours, best, 1) if classes > 1 else None,
        top5=hits(ours, best, TOP) if classes > TOP else None,
        kl=None if apart is None else float(apart.mean()),
        max_kl=None if apart is None else float(apart.max()),
    )


def agreement_failures(name: str, agreement: Agreement | None) -> tuple[str, ...]:
    """Whether one output is further from PyTorch's than sound ties take it; a sentence, or none.

    Each side has its own choice of tokens.
    """
    if agreement is None:  # the numbers themselves are told to be wrong
        return ()
    if agreement.mean_cosine >= ALIKE_FREELY and agreement.cosine >= WORST_FREELY:
        return ()
    return (
        f"{name}, each with its own choice of tokens, has a cosine of {agreement.mean_cosine:.2f} "
        f"with PyTorch's, {agreement.cosine:.2f} at worst, less than the {ALIKE_FREELY:g} and "
        f"{WORST_FREELY:g} that ties leave: nearly all scores are ties",
    )


def best_classes(logits: NDArray[Any]) -> NDArray[np.int64]:
    """The best class of each row of logits (B, classes): int64 (B,); of equals the lower one."""
    return np.asarray(logits.argmax(axis=1))


def share_of(classes: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    """Share of images whose class is the one expected, both int64 (B,)."""
    return float((classes == expected).mean())


def hits(logits: NDArray[Any], classes: NDArray[np.int64], among: int) -> float:
    """Share of rows of logits (B, classes) with the class (B,) given among so many best ones.

    Of equal logits the lower class comes first, as `best_classes` has it.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :among]
    return float((order == classes[:, None]).any(axis=1).mean())


def divergences(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(PyTorch || candidate) of the softmax of logits (B, classes), nats: (B,)."""
    p, q = log_softmax(theirs), log_softmax(ours)
    apart: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return np.asarray(np.maximum(apart, 0.0))  # it is below by rounding alone


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the probabilities that logits (B, classes) stand for."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _rows(values: NDArray[Any]) -> NDArray[np.float64]:
    """(R, ...) as float64 (R, values)."""
    return np.asarray(values.reshape(len(values), -1).astype(np.float64))
