"""What a user's own model answered to a few images: proof that its checkpoint was read rightly.

An .npz with ``images`` and the model's outputs by name, ``logits`` or ``feat_0 ...``. Nothing in it
is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import ModelFileError
from dynexport.files import existing_file
from dynexport.files.kinds import ARRAYS, other_kind
from dynexport.images import DAMAGED_NPZ, Preprocessing, open_images
from dynexport.tasks import LOGITS

MOST = 8
"""Images that are compared, evenly spread over those recorded: one would do."""

RECORD = "np.savez('expect.npz', images=images.numpy(), logits=model(images).detach().numpy())"
"""How it is recorded."""

IMAGES, LABELS = "images", "labels"

ROUNDING = 1e-3
"""How far from 1 the sum of probabilities may lie."""


@dataclass(frozen=True, eq=False)
class Expectation:
    """A few images, and what the user's own model answered.

    images    uint8 (P, H, W, C) pictures of the model's input size, or float32 (P, C, H, W) as they
              were fed to it
    outputs   by name, float32: logits (P, classes), or feat_0 ... (P, C, H, W)
    recorded  how many images the file holds
    """

    path: Path
    images: NDArray[Any]
    outputs: dict[str, NDArray[np.float32]]
    recorded: int

    @classmethod
    def load(
        cls, path: str | Path, steps: Preprocessing, outputs: Mapping[str, tuple[int, ...]]
    ) -> Expectation:
        """Read the file, for a model with these outputs: name -> shape for one image.

        ModelFileError, or ImageError, if it cannot be compared with that model.
        """
        path = existing_file(path, f"what your own model answered; record it:  {RECORD}")
        found = _read(path)
        images = open_images(path, steps, count=MOST)
        total = images.images.total
        for name, values in found.items():
            _require(path, name, values, total, outputs)
        places = list(images.places)
        return cls(
            path=path,
            images=np.stack(list(images.pictures())),
            outputs={name: values[places].astype(np.float32) for name, values in found.items()},
            recorded=total,
        )

    @property
    def pictures(self) -> bool:
        """Whether the images are pictures, still to be scaled."""
        return self.images.dtype == np.uint8

    @property
    def squashed(self) -> str | None:
        """What the logits went through, ``softmax`` or ``log_softmax``, if they did."""
        logits = self.outputs.get(LOGITS)
        if logits is None or logits.shape[1] < 2:
            return None
        exact = logits.astype(np.float64)
        if (exact >= 0).all() and _all_one(exact.sum(axis=1)):
            return "softmax"
        if (exact <= 0).all() and _all_one(np.exp(exact).sum(axis=1)):
            return "log_softmax"
        return None

    @property
    def told_of_squashing(self) -> str:
        """What is wrong with logits that fit, but `squashed`."""
        return (
            f"{self.path} holds {LOGITS} that went through a {self.squashed}, before which they "
            "are as expected: record what the model gives before it"
        )


def _all_one(sums: NDArray[np.float64]) -> bool:
    return bool((np.abs(sums - 1) < ROUNDING).all())


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Every array but the images and labels; ModelFileError if there is none, or no images."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if isinstance(arrays, np.ndarray):
                raise ModelFileError(_lacks(path, IMAGES, ()))
            names = list(arrays)
            found = {n: arrays[n] for n in names if n not in (IMAGES, LABELS)}
    except DAMAGED_NPZ:
        told = f"{path} is no complete .npz of plain numbers: record it again,  {RECORD}"
        raise ModelFileError(other_kind(path, ARRAYS) or told) from None
    if IMAGES not in names:
        raise ModelFileError(_lacks(path, IMAGES, names))
    if not found:
        raise ModelFileError(_lacks(path, LOGITS, names))
    return found


def _lacks(path: Path, name: str, names: Any) -> str:
    held = ", ".join(map(repr, names)) or "no array by name"
    return f"{path} lacks {name!r}, it holds {held}: record both,  {RECORD}"


def _require(
    path: Path,
    name: str,
    values: NDArray[Any],
    total: int,
    outputs: Mapping[str, tuple[int, ...]],
) -> None:
    """ModelFileError unless these are answers of a model with such outputs to all images."""
    if name not in outputs:
        raise ModelFileError(
            f"{path} holds {name!r}, which the model does not give: name what it gives, "
            f"{', '.join(outputs)}, and leave the rest out"
        )
    shape = (total, *outputs[name])
    if values.shape != shape or values.dtype.kind != "f":
        raise ModelFileError(
            f"{path}: {name!r} is {values.dtype} {list(values.shape)}, expected float32 "
            f"{list(shape)}: an answer for each image, before any softmax or argmax"
        )
    if not np.isfinite(values).all():
        raise ModelFileError(
            f"{path}: {name!r} holds NaN or infinity: record it of a model that answers in numbers"
        )
