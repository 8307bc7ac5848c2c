"""From a picture to what the model sees, exactly as the reference evaluates.

Resize until the picture just covers 256/224 of the input size (bicubic, antialiased), cut out the
centre, scale to [0, 1], subtract the mean, divide by the standard deviation. From 384 pixels on
pictures are warped to the input size instead, and nothing is cut away; so are those for an input
that is not square. Models of 32 pixels and less take pictures as they are.
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

GREY_MEAN, GREY_STD = 0.449, 0.226
"""The averages of ImageNet's, for inputs of other than three channels."""

CROP_PCT = 224 / 256
"""Share of the resized picture, a side, that the reference's crop leaves."""

TAKEN_AS_THEY_ARE, WARPED_FROM = 32, 384
"""Longer sides of inputs, pixels: up to the first nothing is resized, from the second on warped."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls pictures of so many channels; there are no others."""

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
    warp       a picture becomes just as large as ``resize``, whatever its shape
    """

    img_size: ImageSize
    resize: ImageSize | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    warp: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        if self.resize is not None:
            object.__setattr__(self, "resize", ImageSize.of(self.resize))

    @classmethod
    def for_size(
        cls,
        img_size: int | Sequence[int],
        channels: int = 3,
        *,
        crop_pct: float | None = None,
        warp: bool = False,
    ) -> Preprocessing:
        """The reference's evaluation transform at this input size.

        At any size, ``crop_pct`` keeps this share of the resized picture, a side, and ``warp``
        stretches it; then all of it is kept unless ``crop_pct`` says otherwise.
        """
        size = ImageSize.of(img_size)
        mean: tuple[float, ...] = IMAGENET_MEAN
        std: tuple[float, ...] = IMAGENET_STD
        if channels != len(mean):
            mean, std = (GREY_MEAN,) * channels, (GREY_STD,) * channels
        if crop_pct is None and not warp:
            if max(size) <= TAKEN_AS_THEY_ARE:
                return cls(size, None, mean, std)
            warp = max(size) >= WARPED_FROM or not size.square
        share = crop_pct or (1.0 if warp else CROP_PCT)
        resize = ImageSize(*(int(side / share + 1e-6) for side in size))
        return cls(size, resize, mean, std, warp)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """A picture file to uint8 (H, W, C) of the input size; ImageError if it is none."""
        try:
            with Image.open(path) as picture:
                image = picture.convert(MODES[self.channels])
        except NO_PICTURE:
            raise ImageError(f"{path} is not a readable image") from None
        return self.crop(image, str(path))

    def check(self, path: Path) -> None:
        """ImageError unless the head of a file is that of a picture that can be used."""
        self.require_pictures()
        try:
            with Image.open(path) as picture:
                size, bands = picture.size, picture.getbands()
                transparent = "A" in bands or "transparency" in picture.info
        except NO_PICTURE:
            raise ImageError(f"{path} is not a readable image") from None
        if self.channels == len("RGBA") and not transparent:
            raise ImageError(
                f"{path} has channels {', '.join(bands)}, and this model takes 4: give pictures "
                "with red, green, blue and alpha, or an .npz"
            )
        self.check_size(size, str(path))

    def require_pictures(self) -> None:
        """ImageError unless pictures can have as many channels as the model takes."""
        if self.channels not in MODES:
            raise ImageError(
                f"pictures have 1, 3 or 4 channels, and this model takes {self.channels}: give an "
                f".npz with 'images', uint8 (N, H, W, {self.channels})"
            )

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """ImageError unless a picture of this width and height can be used."""
        width, height = size
        if self.resize is None and (height, width) != self.img_size:
            raise ImageError(
                f"{name} is {width} x {height}: this model takes images of "
                f"exactly {self.img_size.width} x {self.img_size.height}, unscaled"
            )
        if self.resize is not None and math.prod(self._resized(size)) > LARGEST_PICTURE:
            raise ImageError(f"{name} is {width} x {height}: too narrow to be resized and cropped")

    def crop(self, image: Image.Image, name: str = "the image") -> NDArray[np.uint8]:
        """Resize and centre crop a picture of the model's channels to uint8 (H, W, C)."""
        self.check_size(image.size, name)
        if self.resize is not None:
            width, height = self._resized(image.size)
            left = round((width - self.img_size.width) / 2.0)
            top = round((height - self.img_size.height) / 2.0)
            right, bottom = left + self.img_size.width, top + self.img_size.height
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, right, bottom))
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def crop_pixels(self, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """The same of an array (H, W, C).

        Channels that are no colours are resized one by one: Pillow takes a fourth for alpha, and
        weighs the others by it.
        """
        if self.channels == len("RGB"):
            return self.crop(Image.fromarray(pixels), name)
        bands = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return np.concatenate([self.crop(Image.fromarray(band), name) for band in bands], axis=2)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that a picture of this width and height gets before the crop."""
        assert self.resize is not None
        return self.resize[::-1] if self.warp else _cover(size, self.resize)

    def to_input(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """The model's input, float32 (B, C, H, W), of pictures or of what is normalised already.

        Pictures are uint8 (B, H, W, C); what is normalised is float32 (B, C, H, W).
        """
        return self.normalise(images) if images.dtype == np.uint8 else images

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, C) to the model's input, float32 (B, C, H, W)."""
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        scaled = (images.astype(np.float32) / np.float32(255.0) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def is_scale(name: str, values: Sequence[Any]) -> bool:
    """Whether these are means, or deviations, of channels on the scale from 0 to 1."""
    return len(values) > 0 and all(
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (0 <= value <= 1 if name == "mean" else 0 < value <= 1)
        for value in values
    )


def _cover(size: tuple[int, int], box: ImageSize) -> tuple[int, int]:
    """Width and height of a picture of this width and height, scaled until it just covers a box.

    Of a square box that is: its shorter side is the box's.
    """
    width, height = size
    if box.height * width >= box.width * height:
        return int(box.height * width / height), box.height
    return box.width, int(box.width * height / width)
