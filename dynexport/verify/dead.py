"""Predictors that choose nothing: where all scores are one, a top-k keeps what it likes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.selection import scores_alike
from dynexport.verify.batches import VerifyPlan
from dynexport.verify.replay import SharedChoice

TELLING = 4
"""Patches, each unlike the others, of an image whose tokens cannot all be alike."""


def dead_stages(plan: VerifyPlan, shared: SharedChoice) -> tuple[str, ...]:
    """Stages that give all tokens of every image one score, a sentence each.

    Then any choice is a tie, every runtime makes another, and users get answers that are not
    PyTorch's. An image of a patch or two, repeated, may well have tokens that score alike, and
    tells nothing.
    """
    facts, failures = plan.metadata, []
    telling = (_distinct_patches(plan.images, facts.grid or (1, 1)) >= TELLING)[plan.every]
    ranked = facts.selection.ranked(facts.keep_counts, facts.num_tokens)
    stages = zip(facts.keep_counts, ranked, shared.theirs.scores, shared.ours.scores, strict=True)
    for number, (count, tokens, theirs, ours) in enumerate(stages, start=1):
        if count == tokens:
            continue
        if scores_alike(theirs[telling]):
            failures.append(
                f"stage {number} gives every token the same score in PyTorch: its predictor is "
                "dead, and which tokens are kept is left to whatever runs it"
            )
        elif scores_alike(ours[telling]):
            failures.append(f"stage {number} gives every token the same score, unlike PyTorch's")
    return tuple(failures)


def _distinct_patches(images: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.int64]:
    """How many of each image's patches, images being (P, C, H, W), are unlike each other: (P,)."""
    down, across = grid
    high, wide = images.shape[2] // down, images.shape[3] // across
    cut = images[:, :, : down * high, : across * wide]
    rows = cut.reshape(*cut.shape[:2], down, high, across, wide).transpose(0, 2, 4, 1, 3, 5)
    patches = rows.reshape(len(images), down * across, -1)
    return np.array([len(np.unique(each, axis=0)) for each in patches])
