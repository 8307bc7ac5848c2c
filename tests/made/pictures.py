"""Pictures that tell which they are, as folders and as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynexport.images import ImageSet, Preprocessing

TINY = Preprocessing.for_size(4)
"""Takes pictures of 4 x 4 pixels as they are."""


CROPPED = Preprocessing.for_size(40)


def numbered(total: int, size: int = 4) -> NDArray[np.uint8]:
    """Picture n is of colour n throughout."""
    return np.broadcast_to(
        np.arange(total, dtype=np.uint8)[:, None, None, None], (total, size, size, 3)
    )


def save_folder(folder: Path, names: list[str]) -> Path:
    """Pictures whose colour is their place in the list."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)).save(folder / name)
    return folder


def save_npz(path: Path, compressed: bool = False, **arrays: NDArray[Any]) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return path


def colours(images: ImageSet) -> list[int]:
    """Which of the numbered pictures these are."""
    return [int(picture.flat[0]) for picture in images.pictures()]
