"""Pictures drawn, and what plain computations make of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynexport.images import Preprocessing

TINY = Preprocessing.for_size(28)


FULL = Preprocessing.for_size(224)


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(colour: int) -> Image.Image:
    return Image.new("RGB", (28, 28), (colour, colour, colour))
