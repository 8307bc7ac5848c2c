"""Images to batches: the order they come in, and how much is in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made.pictures import CROPPED, TINY, numbered, save_npz
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import load_images, open_images


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (64, [10])]
)
def test_batches_are_full_but_for_the_last(source: Path, size: int, sizes: list[int]) -> None:
    batches = list(open_images(source, TINY).batches(size))
    assert [len(batch) for batch in batches] == sizes
    expected = TINY.normalise(np.ascontiguousarray(numbered(10)))
    assert batches[0].dtype == np.float32
    assert np.array_equal(np.concatenate(batches), expected)


def test_batches_can_be_read_again_and_beside_each_other(source: Path) -> None:
    images = open_images(source, TINY)
    for first, second in zip(images.batches(3), images.batches(3), strict=True):
        assert np.array_equal(first, second)
    assert sum(len(batch) for batch in images.batches(3)) == 10


def test_a_batch_of_none_is_refused(source: Path) -> None:
    with pytest.raises(ImageError, match="a batch of 0 images was asked for"):
        next(open_images(source, TINY).batches(0))


def test_pictures_go_through_the_models_own_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    cropped = np.stack([CROPPED.crop(Image.fromarray(image)) for image in pixels])
    images = open_images(save_npz(tmp_path / "x.npz", images=pixels), CROPPED)
    assert np.array_equal(next(images.batches(3)), CROPPED.normalise(cropped))


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_normalised_arrays_are_passed_on_as_they_are(
    tmp_path: Path, dtype: str, compressed: bool
) -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(dtype)
    path = save_npz(tmp_path / "x.npz", compressed, images=values)
    (batch,) = open_images(path, TINY).batches(8)
    assert batch.dtype == np.float32
    assert np.array_equal(batch, values)
    assert np.array_equal(load_images(path, 8, TINY), values)
    assert load_images(path, 8, TINY).dtype == np.float32


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_normalised_arrays_must_hold_numbers(tmp_path: Path, wrong: float) -> None:
    values = np.zeros((3, 3, 4, 4), dtype=np.float32)
    values[1, 2, 3, 0] = wrong
    images = open_images(save_npz(tmp_path / "x.npz", images=values), TINY)
    with pytest.raises(ImageError, match=r"x\.npz: images\[1\] holds values that are no numbers"):
        list(images.batches(8))


def test_normalised_arrays_must_have_the_models_size(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "x.npz", images=np.zeros((1, 3, 4, 5), dtype=np.float32))
    with pytest.raises(ImageError, match=r"float32 \[1, 3, 4, 5\], normalised.* 4 x 4"):
        open_images(path, TINY)
