"""Answers beside those expected of the user's own model, which tells no choice of tokens.

Where one of our scores stands within the margin of a cut, that model may have kept another token by
rounding alone. Only images whose choice is settled at every stage are compared tightly; the others
have to point the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.numbers import (
    ALIKE_FREELY,
    WORST_FREELY,
    Agreement,
    error_failures,
    judge_agreement,
    log_softmax,
    measure_errors,
)
from dynexport.compare.selection import settled_choices
from dynexport.compare.tolerances import Tolerances

FLOAT32 = Tolerances(measure="max", outputs=1e-4, tie_margin=1e-4, ranking=1e-4)
"""Of the same model in float32, computed in another order."""

EXACT = 1e-5
"""An error below it is rounding: no other reading of the checkpoint can be told to be better."""

WHOSE = "the expected"


@dataclass(frozen=True)
class Fit:
    """How answers fit those expected.

    images    compared; of these ``settled`` tightly
    error     the largest difference of these, relative to the largest value expected (but at least
              to one); where none is settled, of all
    cosine    of an image's answer and the expected one, the smallest
    failures  what does not fit, a sentence each
    """

    images: int
    settled: int
    error: float
    cosine: float
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def proved(self) -> bool:
        """Whether it passed, and an image was compared tightly."""
        return self.passed and self.settled > 0

    @property
    def rank(self) -> tuple[float, float]:
        """The smaller, the better it fits."""
        return self.error, -self.cosine


def judge_expected(
    expected: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
    scores: Sequence[NDArray[Any]],
    counts: Sequence[int],
    tolerances: Tolerances = FLOAT32,
) -> Fit:
    """Judge answers, by name (P, ...), beside those expected.

    scores, counts: per stage what our choice ranked (P, N) and how many it kept.
    """
    total = len(next(iter(expected.values())))
    settled = np.ones(total, dtype=bool)
    if counts:
        settled = settled_choices(tuple(scores), tuple(counts), tolerances.tie_margin)
    errors, cosine = [], 1.0
    failures: list[str] = []
    for name, theirs in expected.items():
        ours, rows = found[name], settled if settled.any() else np.ones(total, dtype=bool)
        measured = measure_errors(theirs[rows], ours[rows])
        errors.append(measured.l2 if tolerances.measure == "l2" else measured.relative)
        if settled.any():
            tight = (name, theirs[rows], ours[rows], measured, tolerances, WHOSE)
            failures += error_failures(*tight)
        agreement = judge_agreement(theirs, ours, by_class=False)
        failures += _direction_failures(name, agreement) if not failures else ()
        cosine = min(cosine, -1.0 if agreement is None else agreement.cosine)
    return Fit(total, int(settled.sum()), max(errors), cosine, tuple(failures))


def _direction_failures(name: str, agreement: Agreement | None) -> tuple[str, ...]:
    """Whether an output points elsewhere than ties take it; a sentence, or none."""
    if agreement is None:
        return (f"{name} holds what is no finite number",)
    if agreement.mean_cosine >= ALIKE_FREELY and agreement.cosine >= WORST_FREELY:
        return ()
    return (
        f"{name} has a cosine of {agreement.mean_cosine:.2f} with the expected, "
        f"{agreement.cosine:.2f} at worst, less than the {ALIKE_FREELY:g} and {WORST_FREELY:g} "
        "that ties leave",
    )


def squash(logits: NDArray[Any], how: str) -> NDArray[np.float32]:
    """Logits (B, classes) through a ``softmax`` or a ``log_softmax``."""
    squashed = log_softmax(logits.astype(np.float64))
    return (np.exp(squashed) if how == "softmax" else squashed).astype(np.float32)
