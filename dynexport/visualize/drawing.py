"""Pictures of what a model kept: the dropped patches dimmed, and what they were ranked by.

Kept patches are the original's, pixel by pixel: what marks the others is drawn on them alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

Pair = tuple[int, int]
"""Rows and columns, of patches or of pixels."""

TILE = 224
"""Longer side of a tile, pixels, that smaller images are enlarged to as far as whole factors go."""

VERMILION: Colour = (213, 94, 0)
"""Of M. Okabe and K. Ito, Color Universal Design (2008): told apart by the colour-blind too."""

UNRANKED: Colour = (226, 226, 226)
"""On a heat map: positions that a stage did not rank."""

LIGHT = 150.0
"""Mean brightness, of 255, from which on a picture is a light one."""

HATCHED = 18.0
"""How much brighter or darker the hatching is."""

VIRIDIS = np.array(
    [
        *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
        *((31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37)),
    ],
    dtype=np.float64,
)
"""S. van der Walt and N. Smith, 2015: its lightness rises evenly, so it is read without hues."""

SPREAD = (2.0, 98.0)
"""Percentiles of a stage's scores that the ends of the colours stand for."""


@dataclass(frozen=True, eq=False)
class View:
    """What a model made of one image.

    picture  uint8 (H, W, 3), as the model sees it
    kept     per stage the positions kept, int64 (K,), best first; from N on they are no patches
             (`dynexport.schedule.Selection`)
    scores   per stage the score of each patch, float64 (N,), NaN where it was not ranked; empty
             where they were not asked for
    classes  the most probable ones and their probabilities, best first; empty without logits
    name     of the image
    """

    picture: NDArray[np.uint8]
    kept: tuple[NDArray[np.int64], ...]
    scores: tuple[NDArray[np.float64], ...] = ()
    classes: tuple[tuple[str, float], ...] = ()
    name: str = ""


def enlarge(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) to be shown.

    By the largest whole factor that keeps its longer side to ``side`` pixels, or as it is where it
    is larger.
    """
    factor = max(1, side // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def dim_dropped(
    picture: NDArray[np.uint8], kept: NDArray[np.int64], grid: Pair
) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with every patch of its grid that is not ``kept`` (K,) dimmed.

    Without colour, and pale on a dark picture, dark on a light one. It is hatched, so that what had
    that grey already shows, too, and a thin line runs round the kept ones.
    """
    alive = patch_mask(kept, grid, picture.shape[:2])
    grey = picture @ np.array([0.299, 0.587, 0.114])
    pale = grey.mean() < LIGHT
    dimmed = 0.28 * grey + (150 if pale else 24)
    dimmed += HATCHED * _hatching(picture.shape[:2]) * (1 if pale else -1)
    drawn = np.where(alive[..., None], picture, np.round(dimmed)[..., None])
    drawn[rim_of(alive)] = VERMILION
    return drawn.astype(np.uint8)


def _hatching(size: Pair) -> NDArray[np.bool_]:
    """Pixels (H, W) on fine diagonals."""
    side, (down, across) = max(size), (np.arange(one) for one in size)
    return np.asarray((down[:, None] + across) % max(3, side // 28) < max(1, side // 112))


def colour_scores(
    scores: NDArray[np.float64], kept: NDArray[np.int64], grid: Pair, size: Pair
) -> NDArray[np.uint8]:
    """A heat map (H, W, 3) of scores (N,) on a grid, from their 2nd to their 98th percentile.

    A thin line runs round what was kept.
    """
    ranked = np.isfinite(scores)
    low, high = np.percentile(scores[ranked], SPREAD) if ranked.any() else (0.0, 0.0)
    share = np.full(scores.shape, 0.5)
    if high > low:
        share[ranked] = np.clip((scores[ranked] - low) / (high - low), 0.0, 1.0)
    cells = np.where(ranked[:, None], viridis(share), np.array(UNRANKED)).astype(np.uint8)
    drawn = cells[patch_of_pixel(grid, size)]
    drawn[rim_of(patch_mask(kept, grid, size))] = VERMILION
    return drawn


def viridis(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours (..., 3) of shares (...), 0 to 1: dark blue, green, yellow."""
    stops = np.linspace(0.0, 1.0, len(VIRIDIS))
    channels = [np.interp(shares, stops, VIRIDIS[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def patch_of_pixel(grid: Pair, size: Pair) -> NDArray[np.int64]:
    """The position in a grid of each pixel's patch, (H, W)."""
    down, across = (np.arange(side) * count // side for side, count in zip(size, grid, strict=True))
    return down[:, None] * grid[1] + across


def patch_mask(kept: NDArray[np.int64], grid: Pair, size: Pair) -> NDArray[np.bool_]:
    """Which pixels (H, W) lie in patches that were kept.

    Tokens that are no patches are left out.
    """
    alive = np.zeros(grid[0] * grid[1], dtype=bool)
    alive[kept[kept < len(alive)]] = True
    return np.asarray(alive[patch_of_pixel(grid, size)])


def rim_of(alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels (H, W) just outside: a line of 1 / 112 of the longer side, at least one."""
    rows, columns = alive.shape
    width = max(1, max(alive.shape) // 112)
    padded, near = np.pad(alive, width), np.zeros_like(alive)
    for down in range(2 * width + 1):
        for right in range(2 * width + 1):
            near |= padded[down : down + rows, right : right + columns]
    return near & ~alive
