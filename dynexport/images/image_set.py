"""Images to batches: chosen from a folder of pictures or an .npz, or made from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import ImageError
from dynexport.images.arrays import ImageArray
from dynexport.images.folder import ImageFolder
from dynexport.images.preprocessing import Preprocessing
from dynexport.images.synthetic import SyntheticImages

SYNTHETIC = 64
"""Images made up where none are given, and it is not said how many."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images chosen from a source, at these ``places`` in it, ascending; read when asked for."""

    images: ImageFolder | ImageArray | SyntheticImages
    places: tuple[int, ...]
    preprocessing: Preprocessing

    @property
    def source(self) -> Path:
        """The folder or .npz; ImageError if they are synthetic."""
        return self.images.path

    @property
    def synthetic(self) -> bool:
        """Whether they are made up."""
        return isinstance(self.images, SyntheticImages)

    @property
    def described(self) -> str:
        """How reports call them: how many, and of what."""
        if self.synthetic:
            return f"{self.count} synthetic images"
        return f"{self.count:,} images of {self.source.name or self.source}"

    @property
    def count(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The class of each, int64 (count,), where the source tells; of folders see `labelled`."""
        if self.images.labels is None:
            return None
        return self.images.labels[list(self.places)]

    def labelled(self, classes: int) -> ImageSet:
        """The same for a model of so many classes, which tell what folders stand for.

        ImageError where a folder tells none of them, or a label is none.
        """
        known = replace(self, images=self.images.labelled(classes))
        labels = () if known.labels is None else known.labels
        wrong = next((label for label in labels if not 0 <= label < classes), None)
        if wrong is not None:
            raise ImageError(
                f"{self.source} has label {wrong}, but the model knows {classes} classes, 0 to "
                f"{classes - 1}: give the images it was trained to classify"
            )
        return known

    def pictures(self) -> Iterator[NDArray[Any]]:
        """The pictures, one by one, of the model's input size.

        uint8 (H, W, C), or float32 (C, H, W) where the source holds normalised ones. ImageError if
        one cannot be read.
        """
        return self.images.read(self.places, self.preprocessing)

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """The model's input, float32 (B, C, H, W), B = ``size`` but for a shorter last one.

        No more than one batch is in memory. ImageError if an image cannot be read.
        """
        if size < 1:
            raise ImageError(f"a batch of {size} images was asked for: the least is 1")
        batch: list[NDArray[Any]] = []
        for picture in self.pictures():
            batch.append(picture)
            if len(batch) == size:
                yield self.preprocessing.to_input(np.stack(batch))
                batch.clear()
        if batch:
            yield self.preprocessing.to_input(np.stack(batch))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the images hold, in order, and of their labels; hexadecimal.

        Where they lie and what they are called makes no difference. Reads every image once.
        """
        whole = hashlib.sha256(b"" if self.labels is None else self.labels.tobytes())
        for one in self.images.fingerprints(self.places):
            whole.update(one)
        return whole.hexdigest()

    def split(self, share: float) -> tuple[ImageSet, ImageSet]:
        """Two sets of them, the second with about this ``share`` (between 0 and 1), spread evenly.

        ImageError where there are fewer than two.
        """
        if not 0 < share < 1:
            raise ImageError(f"a share of {share} was asked for: expected one between 0 and 1")
        if self.count < 2:
            raise ImageError(f"{self.source} gives 1 image, at least 2 are needed to set one apart")
        apart = min(max(round(self.count * share), 1), self.count - 1)
        first: list[int] = []
        second: list[int] = []
        for number, place in enumerate(self.places):
            taken = (number + 1) * apart // self.count > number * apart // self.count
            (second if taken else first).append(place)
        return replace(self, places=tuple(first)), replace(self, places=tuple(second))


def open_images(
    source: str | Path | None,
    preprocessing: Preprocessing,
    *,
    count: int | None = None,
    seed: int | None = None,
    at_least: int = 1,
) -> ImageSet:
    """Choose images for a model: all, or up to ``count`` of them.

    ``source`` is a folder, searched through its subfolders, or an .npz with ``images`` uint8
    (N, H, W, C) or float32 (N, C, H, W) already normalised, and maybe ``labels`` (N,); None for
    ``count`` synthetic ones, or `SYNTHETIC`. Those chosen are spread evenly over it, or with a
    ``seed`` drawn at random; either way they come in the order of the source. ImageError where
    there are fewer than ``at_least``, or some are seen to be unusable without decoding them.
    """
    if count is not None and count < at_least:
        raise ImageError(f"{count} images were asked for, at least {at_least} are needed")
    if source is None:
        made = SYNTHETIC if count is None else count
        return ImageSet(SyntheticImages(made, seed or 0), tuple(range(made)), preprocessing)
    path = Path(source)
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError):  # a name no file can have
        there = folder = False
    if not there:
        raise ImageError(f"{path} does not exist: give a folder of images or an .npz")
    images = ImageFolder.open(path) if folder else ImageArray.open(path, preprocessing.channels)
    if images.total < at_least:
        raise ImageError(f"{path} holds {images.total} images, at least {at_least} are needed")
    places = _choose(images.total, images.total if count is None else count, seed)
    images.check(places, preprocessing)
    return ImageSet(images, places, preprocessing)


def fill_batch(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Images (B, C, H, W) made up to a batch of ``size``, from the front again."""
    return np.take(images, np.arange(size) % len(images), axis=0)


def load_images(
    source: str | Path | None, count: int, preprocessing: Preprocessing
) -> NDArray[Any]:
    """Up to ``count`` images at once, spread evenly over ``source``, as `open_images` takes it.

    uint8 (B, H, W, C) of the model's input size, or float32 (B, C, H, W) where the source holds
    normalised ones. ImageError where there are none or one cannot be read.
    """
    return np.stack(list(open_images(source, preprocessing, count=count).pictures()))


def _choose(total: int, count: int, seed: int | None) -> tuple[int, ...]:
    """Up to ``count`` of ``total`` places, ascending; evenly spread, since sorted folders are
    sorted by class."""
    taken = min(total, count)
    if seed is None:
        return tuple(place * total // taken for place in range(taken))
    drawn = np.random.default_rng(seed).choice(total, taken, replace=False)
    return tuple(sorted(drawn.tolist()))
