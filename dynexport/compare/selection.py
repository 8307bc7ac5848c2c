"""The selection, judged apart: a top-k is discontinuous, and numbers cannot tell a tie.

Candidate and PyTorch are compared stage by stage under one and the same choice before it
(`dynexport.verify.replay`). So every stage is judged, whatever the ones before it swapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.numbers import PINNED, not_numbers
from dynexport.compare.original import Kept
from dynexport.compare.tolerances import Tolerances
from dynexport.formats.metadata import Metadata

ALIKE = 1e-6
"""Scores that differ by less of their size do so by float32's rounding alone."""


@dataclass(frozen=True)
class StageChoice:
    """What one pruning stage keeps, beside PyTorch, over all images.

    overlap       mean share of kept tokens both chose, from the same tokens
    ties, faults  tokens swapped inside and outside the margin of rounding
    inversion     how far apart, in PyTorch, two tokens score at most that the candidate ranks the
                  other way round, relative to the largest score (but at least to one)
    """

    overlap: float
    ties: int
    faults: int
    inversion: float


def judge_stage(
    scores: NDArray[np.float32], own: NDArray[np.float64], kept: NDArray[np.int64], margin: float
) -> StageChoice:
    """PyTorch's scores and the candidate's own, (R, positions), and what it keeps, (R, K)."""
    overlap, ties, faults = judge_selection(scores, kept, margin)
    return StageChoice(overlap, ties, faults, largest_inversion(scores, own))


def judge_selection(
    scores: NDArray[np.float32], kept: NDArray[np.int64], margin: float
) -> tuple[float, int, int]:
    """Mean overlap, ties and faults of one stage.

    scores  PyTorch's, (R, positions), -inf where it did not rank a token
    kept    the candidate's choice, (R, K), among the tokens these scores are of
    """
    rows = [_judge_row(*row, margin) for row in zip(scores, kept, strict=True)]
    shares, ties, faults = zip(*rows, strict=True)
    return float(np.mean(shares)), sum(ties), sum(faults)


def _judge_row(
    scores: NDArray[np.float32], kept: NDArray[np.int64], margin: float
) -> tuple[float, int, int]:
    """Share of the k best among the ``kept``, and how many swapped tokens are ties and faults.

    A token that is kept twice, was not there to be kept, or is off the grid is a fault.
    """
    count = kept.size
    ours = np.unique(kept)
    on_grid = ours[(ours >= 0) & (ours < scores.size)]
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[on_grid] = True
    best = np.lexsort((chosen, scores))[-count:]  # of equal scores those the candidate chose
    cut = scores[best[0]]
    finite = np.abs(scores[np.isfinite(scores)])
    room = margin * max(1.0, float(finite.max(initial=0.0)))
    swapped = np.setxor1d(best, on_grid)
    ties = int((np.abs(scores[swapped] - cut) <= room).sum()) if swapped.size else 0
    wrong = (ours.size - on_grid.size) + (count - ours.size)
    share = np.intersect1d(best, on_grid).size / count
    return share, ties, swapped.size - ties + wrong


def largest_inversion(scores: NDArray[np.float32], own: NDArray[np.float64]) -> float:
    """Of PyTorch's scores and the candidate's own, both (R, positions): see `StageChoice`.

    Only order counts, so the candidate's may be on another scale. It sees what moves scores but
    happens to swap nothing at the cut. Infinite where a score is no finite number.
    """
    worst = 0.0
    for theirs, ours in zip(scores.astype(np.float64), own, strict=True):
        ranked = theirs != -np.inf
        theirs, ours = theirs[ranked], ours[ranked]
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            return float("inf")
        in_order = theirs[np.lexsort((-theirs, -ours))]  # best first, by the candidate
        best_behind = np.maximum.accumulate(in_order[::-1])[::-1]
        apart = float((best_behind - in_order).max(initial=0.0))
        worst = max(worst, apart / max(1.0, float(np.abs(theirs).max(initial=0.0))))
    return worst


def overlap_of(theirs: NDArray[np.generic], ours: NDArray[np.generic]) -> float:
    """Mean share of the positions kept, both (R, K), that are the same."""
    pairs = zip(theirs, ours, strict=True)
    return float(np.mean([np.intersect1d(*pair).size for pair in pairs]) / theirs.shape[1])


def same_sets(theirs: Kept, ours: Kept) -> NDArray[np.bool_]:
    """Which rows (R,) keep the same tokens at every stage."""
    same = np.ones(len(theirs[0]), dtype=bool)
    for one, other in zip(theirs, ours, strict=True):
        same &= (np.sort(one, axis=1) == np.sort(other, axis=1)).all(axis=1)
    return same


def possible_choices(kept: Kept, metadata: Metadata) -> NDArray[np.bool_]:
    """Which rows (R,) keep each token once, and none that the stage before did not leave."""
    selection, tokens = metadata.selection, metadata.num_tokens
    possible = np.ones(len(kept[0]), dtype=bool)
    for stage, ours in enumerate(kept):
        ordered = np.sort(ours, axis=1)
        possible &= (np.diff(ordered, axis=1) > 0).all(axis=1)
        if stage == 0 or not selection.nested:
            possible &= (ordered[:, 0] >= 0) & (ordered[:, -1] < tokens)
            continue
        behind = selection.appended_by(stage - 1, tokens)
        left = (ours[:, :, None] == kept[stage - 1][:, None, :]).any(axis=2)
        possible &= (left | np.isin(ours, list(behind))).all(axis=1)
    return possible


def settled_choices(
    scores: tuple[NDArray[np.float32], ...], counts: tuple[int, ...], margin: float
) -> NDArray[np.bool_]:
    """Which images (P,) leave a gap above the margin at the cut of every stage.

    Rounding changes nothing there; scores per stage (P, positions).
    """
    settled = np.ones(len(scores[0]), dtype=bool)
    for theirs, count in zip(scores, counts, strict=True):
        ordered = np.sort(theirs, axis=1)[:, ::-1]
        if count == ordered.shape[1]:
            continue
        finite = np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
        room = margin * np.maximum(1.0, finite.max(axis=1))
        settled &= ordered[:, count - 1] - ordered[:, count] > room
    return settled


def best_of_own(
    rows: NDArray[np.int64], scores: NDArray[np.generic], count: int
) -> NDArray[np.bool_]:
    """Whether the first ``count`` rows selected are the best by the candidate's own scores.

    Rows are (R, M, 1), scores (R, N, 1).
    """
    chosen = rows.reshape(len(rows), -1)[:, :count]
    own = scores.reshape(len(rows), -1).astype(np.float64)
    inside = np.asarray(((chosen >= 0) & (chosen < own.shape[1])).all(axis=1))
    taken = np.zeros(own.shape, dtype=bool)
    np.put_along_axis(taken, np.where(inside[:, None], chosen, 0), True, axis=1)
    worst = np.where(taken, own, np.inf).min(axis=1)
    left_out = np.where(taken, -np.inf, own).max(axis=1)
    size = np.where(np.abs(own) < PINNED, np.abs(own), 0.0).max(axis=1)
    # a score that is shown may be computed anew, and so differ in its last bits
    within = worst >= left_out - 1e-5 * np.maximum(size, np.finfo(np.float64).tiny)
    sound = within | np.isnan(own).any(axis=1)  # NaN is for the numbers to show
    return np.asarray(inside & sound & (chosen.shape[1] == count))


def choice_failures(number: int, stage: StageChoice, tolerances: Tolerances) -> tuple[str, ...]:
    """What is wrong with a stage's choice, counted from 1; a sentence, or none."""
    if stage.faults:
        return (
            f"stage {number} swapped {stage.faults} tokens that rounding does not explain "
            f"(overlap {stage.overlap:.1%})",
        )
    if stage.inversion > tolerances.ranking:
        return (
            f"stage {number} ranks tokens the other way round that score {stage.inversion:.2g} "
            f"of the largest apart, more than {tolerances.ranking:.2g} allows",
        )
    return ()


def score_failures(
    number: int,
    theirs: NDArray[np.float32],
    own: NDArray[np.float64],
    whose: str,
) -> tuple[str, ...]:
    """Which scores of a stage, both (R, positions), are no finite numbers; a sentence each side.

    -inf in theirs stands for a token that was not ranked, and is none of these.
    """
    ranked = theirs != -np.inf
    return (
        *not_numbers(f"stage {number}, {whose} scores", theirs[ranked]),
        *not_numbers(f"stage {number}, scores", own[ranked]),
    )


def scores_alike(scores: NDArray[np.generic]) -> bool:
    """Whether each image's scores, (R, positions), are one number but for rounding.

    A predictor that gives such is dead: which tokens a top-k keeps is then left to whoever
    computes it. A stage that ranks one token has nothing to choose.
    """
    exact = scores.astype(np.float64)
    ranked = np.isfinite(exact)
    if not len(exact) or (ranked.sum(axis=1) < 2).any():
        return False
    most = np.where(ranked, exact, -np.inf).max(axis=1)
    least = np.where(ranked, exact, np.inf).min(axis=1)
    size = np.where(ranked, np.abs(exact), 0.0).max(axis=1)
    return bool((most - least <= ALIKE * size).all())


def gap_at_cut(scores: NDArray[np.generic], kept: NDArray[np.int64]) -> float:
    """How far the worst token kept, of (R, K), scores under the K-th best of (R, positions)."""
    cut = np.sort(scores, axis=1)[:, -kept.shape[1]]
    return float((cut - np.take_along_axis(scores, kept, axis=1).min(axis=1)).max())


def tied_rows(
    scores: Sequence[NDArray[Any]],
    theirs: Sequence[NDArray[np.int64]],
    ours: Sequence[NDArray[np.int64]],
    margin: float,
) -> NDArray[np.bool_]:
    """Rows (R,) where the first choice ordered otherwise is of scores within the margin.

    For each choice what it ranks (R, N), and both orders (R, K). What comes after it, in such a
    row, is no evidence of a fault.
    """
    tied = np.zeros(len(scores[0]), dtype=bool)
    decided = np.zeros_like(tied)
    for ranked, first, second in zip(scores, theirs, ours, strict=True):
        exact = np.asarray(ranked, dtype=np.float64)
        scale = np.maximum(1.0, np.abs(exact).max(axis=1, keepdims=True))
        there, here = (np.take_along_axis(exact, order, axis=1) for order in (first, second))
        near = (np.abs(there - here) <= margin * scale).all(axis=1)
        differs = (first != second).any(axis=1) & ~decided
        tied |= differs & near
        decided |= differs
    return tied
