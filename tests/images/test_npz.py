"""Pictures from an .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made.drawn import FULL, TINY, noise, plain
from numpy.typing import NDArray
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import load_images


def black(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.zeros(shape, dtype=np.uint8)


def test_arrays_are_cropped_like_pictures(tmp_path: Path) -> None:
    pixels = np.stack([noise(300, 250, seed) for seed in range(2)])
    np.savez(tmp_path / "x.npz", images=pixels)
    expected = [FULL.crop(Image.fromarray(image)) for image in pixels]
    assert np.array_equal(load_images(tmp_path / "x.npz", 8, FULL), np.stack(expected))


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (black((2, 28, 28, 3)).astype(np.float32), r"float32 \[2, 28, 28, 3\]"),
        (black((2, 28, 28, 3)).astype(np.int64), "int64"),
        (black((2, 3, 28, 28)), r"uint8 \[2, 3, 28, 28\]"),
        (black((28, 28, 3)), r"uint8 \[28, 28, 3\]"),
        (black((2, 28, 28)), r"uint8 \[2, 28, 28\]"),
        (black((2, 28, 28, 4)), r"uint8 \[2, 28, 28, 4\]"),
        (black((0, 28, 28, 3)), r"uint8 \[0, 28, 28, 3\]"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_what_they_are(
    tmp_path: Path, images: NDArray[Any], shown: str
) -> None:
    np.savez(tmp_path / "x.npz", images=images)
    with pytest.raises(ImageError, match=rf"'images' is {shown}.*, expected uint8 \(N, H, W, 3\)"):
        load_images(tmp_path / "x.npz", 8, TINY)


def test_an_array_of_the_wrong_size_is_refused_by_a_small_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=black((1, 32, 30, 3)))
    with pytest.raises(ImageError, match=r"x\.npz is 30 x 32: .* exactly 28 x 28"):
        load_images(tmp_path / "x.npz", 8, TINY)


def test_pictures_without_pixels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=black((2, 0, 5, 3)))
    with pytest.raises(ImageError, match=r"x\.npz"):
        load_images(tmp_path / "x.npz", 8, FULL)


def write_other_name(path: Path) -> None:
    np.savez(path, pictures=black((2, 28, 28, 3)))


def write_objects(path: Path) -> None:
    np.savez(path, images=np.array([{"a": 1}], dtype=object))


def write_cut(path: Path) -> None:
    np.savez_compressed(path, images=np.stack([noise(28, 28, seed) for seed in range(4)]))
    path.write_bytes(path.read_bytes()[:2000])


def write_damaged(path: Path) -> None:
    """A whole zip around a compressed stream that is none."""
    np.savez_compressed(path, images=np.stack([noise(28, 28, seed) for seed in range(4)]))
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset + 30 + len("images.npy") + 20
    content = bytearray(path.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    path.write_bytes(content)


def write_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, black((2, 28, 28, 3)))


def write_picture(path: Path) -> None:
    plain(0).save(path, "png")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "text")


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_text("text"), ""),
        (write_other_name, ""),
        (write_objects, ""),
        (write_cut, ""),
        (write_damaged, ""),
        (write_picture, "a picture, "),
        (write_zip, "a zip archive, "),
        (write_array, "a single array, "),
    ],
)
def test_a_file_that_is_no_archive_of_images_is_refused(
    tmp_path: Path, write: Callable[[Path], Any], kind: str
) -> None:
    path = tmp_path / "x.npz"
    write(path)
    with pytest.raises(ImageError) as error:
        load_images(path, 8, TINY)
    assert str(error.value) == (
        f"{path} is {kind}no folder and no .npz with an array 'images': give one of the two"
    )
