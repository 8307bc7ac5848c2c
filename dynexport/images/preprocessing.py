"""From a picture to what the model sees, exactly as the reference evaluates.

Resize the shorter side to 256/224 of the input size (bicubic, antialiased), cut out the centre,
scale to [0, 1], subtract the mean, divide by the standard deviation. Models of 32 pixels and
less take pictures as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dynexport.errors import ImageError

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

    img_size   side of the square input, pixels
    resize     shorter side before the crop, or None for pictures taken as they are
    mean, std  per channel, on the [0, 1] scale
    """

    img_size: int
    resize: int | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def for_size(cls, img_size: int) -> Preprocessing:
        """The reference's evaluation transform at this input size."""
        return cls(img_size, int(256 / 224 * img_size) if img_size > 32 else None)

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
        if self.resize is None and size != (self.img_size, self.img_size):
            raise ImageError(
                f"{name} is {width} x {height}: this model takes images of "
                f"exactly {self.img_size} x {self.img_size}, unscaled"
            )
        if self.resize is not None and self.resize**2 * max(size) > LARGEST_PICTURE * min(size):
            raise ImageError(f"{name} is {width} x {height}: too narrow to be resized and cropped")

    def crop(self, image: Image.Image, name: str = "the image") -> NDArray[np.uint8]:
        """Resize and centre crop an RGB picture to uint8 (H, W, 3)."""
        self.check_size(image.size, name)
        if self.resize is None:
            return np.asarray(image, dtype=np.uint8)
        size, short = self.img_size, min(image.size)
        width, height = (
            self.resize if side == short else int(self.resize * side / short) for side in image.size
        )
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2.0), round((height - size) / 2.0)
        return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)

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
