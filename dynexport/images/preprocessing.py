"""From a picture to what the model sees, exactly as the reference evaluates.

Resize until the picture just covers 256/224 of the input size (bicubic, antialiased), cut out the
centre, scale to [0, 1], subtract the mean, divide by the standard deviation. Models of 32 pixels
and less take pictures as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dynexport.errors import ImageError
from dynexport.images.size import ImageSize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LARGEST_PICTURE = 178_956_970
"""Pixels of the largest picture taken, before and after resizing: what Pillow opens at most."""

NO_PICTURE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    Image.DecompressionBombError,
)
"""What opening or decoding a file that is no sound picture may raise."""


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become a model's input.

    img_size   of the input
    resize     what a picture just covers before the crop, or None for those taken as they are
    mean, std  per channel, on the [0, 1] scale
    """

    img_size: ImageSize
    resize: ImageSize | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        if self.resize is not None:
            object.__setattr__(self, "resize", ImageSize.of(self.resize))

    @classmethod
    def for_size(cls, img_size: int | Sequence[int]) -> Preprocessing:
        """The reference's evaluation transform at this input size."""
        size = ImageSize.of(img_size)
        covered = ImageSize(*(int(256 / 224 * side) for side in size))
        return cls(size, covered if max(size) > 32 else None)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """A picture file to uint8 (H, W, 3) of the input size; ImageError if it is none."""
        try:
            with Image.open(path) as picture:
                image = picture.convert("RGB")
        except NO_PICTURE:
            raise ImageError(f"{path} is not a readable image") from None
        return self.crop(image, str(path))

    def check(self, path: Path) -> None:
        """ImageError unless the head of a file is that of a picture that can be used."""
        try:
            with Image.open(path) as picture:
                size = picture.size
        except NO_PICTURE:
            raise ImageError(f"{path} is not a readable image") from None
        self.check_size(size, str(path))

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """ImageError unless a picture of this width and height can be used."""
        width, height = size
        if self.resize is None and (height, width) != self.img_size:
            raise ImageError(
                f"{name} is {width} x {height}: this model takes images of "
                f"exactly {self.img_size.width} x {self.img_size.height}, unscaled"
            )
        if self.resize is not None and math.prod(_cover(size, self.resize)) > LARGEST_PICTURE:
            raise ImageError(f"{name} is {width} x {height}: too narrow to be resized and cropped")

    def crop(self, image: Image.Image, name: str = "the image") -> NDArray[np.uint8]:
        """Resize and centre crop an RGB picture to uint8 (H, W, 3)."""
        self.check_size(image.size, name)
        if self.resize is None:
            return np.asarray(image, dtype=np.uint8)
        size, (width, height) = self.img_size, _cover(image.size, self.resize)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size.width) / 2.0), round((height - size.height) / 2.0)
        part = image.crop((left, top, left + size.width, top + size.height))
        return np.asarray(part, dtype=np.uint8)

    def to_input(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """The model's input, float32 (B, 3, H, W), of pictures or of what is normalised already.

        Pictures are uint8 (B, H, W, 3); what is normalised is float32 (B, 3, H, W).
        """
        return self.normalise(images) if images.dtype == np.uint8 else images

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) to the model's input, float32 (B, 3, H, W)."""
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        scaled = (images.astype(np.float32) / np.float32(255.0) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _cover(size: tuple[int, int], box: ImageSize) -> tuple[int, int]:
    """Width and height of a picture of this width and height, scaled until it just covers a box.

    Of a square box that is: its shorter side is the box's.
    """
    width, height = size
    if box.height * width >= box.width * height:
        return int(box.height * width / height), box.height
    return box.width, int(box.width * height / width)
