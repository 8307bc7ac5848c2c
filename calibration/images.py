"""Where images come from: a folder of pictures, an .npz of arrays, or a seed."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynexport.calibration.preprocessing import Preprocessing
from dynexport.errors import ImageError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

DAMAGED_NPZ = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged .npz may raise."""


def load_images(source: Path, count: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Up to ``count`` images, uint8 (B, H, W, 3) of the model's input size.

    ``source`` is a folder (searched through its subfolders, in name order; the images taken are
    spread evenly over it) or an .npz whose ``images`` are uint8 (N, H, W, 3).
    ImageError where there are none or one cannot be read.
    """
    try:
        there = source.exists()
    except OSError:  # a name no file can have
        there = False
    if not there:
        raise ImageError(f"{source} does not exist: give a folder of images or an .npz")
    if source.is_dir():
        return _from_folder(source, count, preprocessing)
    return _from_npz(source, count, preprocessing)


def _spread(total: int, count: int) -> list[int]:
    """Up to ``count`` of ``total`` places, evenly spread: sorted folders are sorted by class."""
    taken = min(total, count)
    return [place * total // taken for place in range(taken)]


def _from_folder(folder: Path, count: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise ImageError(
            f"no images in {folder}: expected files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return np.stack([preprocessing.read(files[place]) for place in _spread(len(files), count)])


def _from_npz(path: Path, count: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
        if not isinstance(images, np.ndarray):
            raise TypeError("images")
    except DAMAGED_NPZ:
        raise ImageError(
            f"{path} is no folder and no .npz with an array 'images': give one of the two"
        ) from None
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise ImageError(
            f"{path}: 'images' is {images.dtype} {list(images.shape)}, expected uint8 (N, H, W, 3)"
        )
    chosen = images[_spread(len(images), count)]
    return np.stack([preprocessing.crop(Image.fromarray(image), str(path)) for image in chosen])


def synthetic_images(count: int, img_size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured noise, uint8 (count, img_size, img_size, 3), the same for the same seed.

    Smooth, because neighbouring patches of real images are alike; different from one image to
    the next, so that a mix-up inside a batch shows.
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = coarse.resize((img_size, img_size), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, dtype=np.float64) + rng.normal(0, 12, (img_size, img_size, 3))
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.stack(images)
