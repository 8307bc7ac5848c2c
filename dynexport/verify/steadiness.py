"""Whether the same images get the same answers again: a choice made by chance passes one run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.numbers import largest_error
from dynexport.compare.original import Kept
from dynexport.compare.selection import same_sets
from dynexport.runtimes import Runner
from dynexport.verify.batches import Outputs, VerifyPlan, run_batches

STEADY = 5e-3
"""How far apart two runs may lie, relative to the largest value (at least 1): what half precision
makes of sums that a GPU adds up in another order. A CPU gives the same bits."""

Choices = tuple[Kept, tuple[NDArray[np.float64], ...]]
"""Per stage the positions kept, (R, K), and the scores they were ranked by, (R, positions)."""


def run_twice(runner: Runner, plan: VerifyPlan) -> tuple[Outputs, Outputs]:
    """Outputs of all batches, and of the first one again."""
    first = run_batches(runner, plan.images, plan.batches)
    return first, run_batches(runner, plan.images, plan.batches[:1])


def unsteady_outputs(first: Mapping[str, NDArray[np.generic]], again: Outputs) -> tuple[str, ...]:
    """Which outputs are others when the first batch runs again, a sentence each."""
    apart = {name: _apart(values, again[name]) for name, values in first.items()}
    return tuple(
        f"{name} differs by {error:.3g} when the same images run again"
        for name, error in apart.items()
        if error > STEADY
    )


def first_unsteady(first: Choices, again: Choices) -> int | None:
    """The first stage, counted from 1, that chooses otherwise when the first batch runs again.

    It keeps other tokens, or ranks them by other scores.
    """
    for stage, (kept, kept_again, scores, scores_again) in enumerate(
        zip(first[0], again[0], first[1], again[1], strict=True), start=1
    ):
        same = same_sets((kept[: len(kept_again)],), (kept_again,)).all()
        if not same or _apart(scores, scores_again) > STEADY:
            return stage
    return None


def _apart(first: NDArray[np.generic], again: NDArray[np.generic]) -> float:
    """The largest difference of the rows that ran twice; what is no finite number in both is for
    others to tell."""
    first = first[: len(again)]
    there = np.isfinite(first.astype(np.float64)) | np.isfinite(again.astype(np.float64))
    return largest_error(first[there], again[there])
