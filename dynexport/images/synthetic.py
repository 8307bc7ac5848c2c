"""Images made up from a seed, for want of real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images.preprocessing import Preprocessing
from dynexport.images.size import ImageSize


@dataclass(frozen=True, eq=False)
class SyntheticImages:
    """So many images of one seed; they have no labels, and fit every model."""

    total: int
    seed: int = 0
    labels: ClassVar[None] = None
    told_by: ClassVar[str] = ""

    @property
    def path(self) -> Path:
        """ImageError: there is none."""
        raise ImageError("synthetic images lie in no file: give a folder of images or an .npz")

    def labelled(self, classes: int) -> SyntheticImages:
        """The same: they are of no class."""
        return self

    def check(self, places: Sequence[int], steps: Preprocessing) -> None:
        """Nothing can be wrong with them."""

    def read(self, places: Sequence[int], steps: Preprocessing) -> Iterator[NDArray[Any]]:
        """The images at these places (ascending), uint8 (H, W, C) of the model's input size."""
        wanted = set(places)
        drawn = islice(
            _draw(steps.img_size, self.seed, steps.channels), max(wanted, default=-1) + 1
        )
        return (image for place, image in enumerate(drawn) if place in wanted)

    def fingerprints(self, places: Sequence[int]) -> Iterator[bytes]:
        """What tells each image at these places from any other."""
        for place in places:
            yield hashlib.sha256(f"synthetic {self.seed} {place}".encode()).digest()


def synthetic_images(
    count: int, img_size: int | Sequence[int], seed: int = 0, channels: int = 3
) -> NDArray[np.uint8]:
    """Smooth coloured noise, uint8 (count, H, W, channels), the same for the same seed.

    Smooth, because neighbouring patches of real images are alike; different from one image to
    the next, so that a mix-up inside a batch shows.
    """
    return np.stack(list(islice(_draw(ImageSize.of(img_size), seed, channels), count)))


def _draw(size: ImageSize, seed: int, channels: int) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    while True:
        coarse = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8)
        smooth = [
            Image.fromarray(band).resize((size.width, size.height), Image.Resampling.BICUBIC)
            for band in np.ascontiguousarray(coarse.transpose(2, 0, 1))
        ]
        noisy = np.stack(list(map(np.asarray, smooth)), axis=2) + rng.normal(
            0, 12, (*size, channels)
        )
        yield np.clip(noisy, 0, 255).astype(np.uint8)
