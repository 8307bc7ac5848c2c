"""The selection, judged apart: a top-k is discontinuous, and numbers cannot tell a tie.

Candidate and PyTorch are compared stage by stage under one and the same choice before it
(`dynexport.verify.replay`). So every stage is judged, whatever the ones before it swapped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.original import Kept
from dynexport.compare.tolerances import Tolerances
from dynexport.formats.metadata import Metadata

PINNED = 1e20
"""A score above it is no predictor's: it keeps a class token in front."""


@dataclass(frozen=True)
class StageOverlap:
    """Kept sets of one pruning stage, over all images.

    overlap       mean share of kept tokens both chose, from the same tokens
    free_overlap  the same where each went on with its own choice at the stages before
    ties, faults  tokens swapped inside and outside the margin of rounding
    misranked     choices that are not the best of the candidate's own scores
    inversion     how far apart, in PyTorch, two tokens score at most that the candidate ranks the
                  other way round, relative to the largest score (but at least to one)
    """

    overlap: float
    free_overlap: float
    ties: int
    faults: int
    misranked: int
    inversion: float


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
    """Of PyTorch's scores and the candidate's own, both (R, positions): see `StageOverlap`.

    Only order counts, so the candidate's may be on another scale. It sees what moves scores but
    happens to swap nothing at the cut. Infinite where the candidate's are no numbers.
    """
    worst = 0.0
    for theirs, ours in zip(scores.astype(np.float64), own, strict=True):
        ranked = theirs != -np.inf
        theirs, ours = theirs[ranked], ours[ranked]
        if np.isnan(ours).any() or np.isnan(theirs).any():
            return float("inf")
        in_order = theirs[np.lexsort((-theirs, -ours))]  # best first, by the candidate
        best_behind = np.maximum.accumulate(in_order[::-1])[::-1]
        apart = float((best_behind - in_order).max())
        worst = max(worst, apart / max(1.0, float(np.abs(theirs).max())))
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
    """Which images (P,) leave a gap above the margin at the cut of every stage, so that rounding
    changes nothing; scores per stage (P, positions)."""
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
    """Whether the first ``count`` of the rows selected (R, M, 1) are the best by the candidate's
    own scores (R, N, 1)."""
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


def selection_failures(
    stages: tuple[StageOverlap, ...], mistold: tuple[int, ...], tolerances: Tolerances
) -> tuple[str, ...]:
    """What is wrong with them, a sentence each; ``mistold``: stages, counted from 1, of which an
    output says something else than they keep."""
    failures = [f"output kept_{stage - 1} is not what stage {stage} keeps" for stage in mistold]
    for number, stage in enumerate(stages, start=1):
        if stage.misranked:
            failures.append(
                f"stage {number} does not keep the best of its own scores ({stage.misranked} times)"
            )
        if stage.faults:
            failures.append(
                f"stage {number} swapped {stage.faults} tokens that rounding does not explain "
                f"(overlap {stage.overlap:.1%})"
            )
        elif stage.inversion > tolerances.ranking:
            failures.append(
                f"stage {number} ranks tokens the other way round that score {stage.inversion:.2g} "
                f"of the largest apart, more than {tolerances.ranking:.2g} allows"
            )
    return tuple(failures)
