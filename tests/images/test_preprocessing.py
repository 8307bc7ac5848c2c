"""Resize, crop, normalise: as the reference evaluates, beside plain computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.drawn import FULL, TINY, noise
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import Preprocessing, load_images


@pytest.mark.parametrize(
    ("img_size", "resize"),
    [(224, 256), (383, 437), (256, 292), (64, 73), (33, 37), (32, None), (28, None)],
)
def test_the_shorter_side_before_the_crop(img_size: int, resize: int | None) -> None:
    assert Preprocessing.for_size(img_size) == Preprocessing(img_size, resize)


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        ((300, 400), (256, 341), (16, 58, 240, 282)),  # (341 - 224) / 2 = 58.5, to even
        ((400, 300), (341, 256), (58, 16, 282, 240)),
        ((500, 375), (341, 256), (58, 16, 282, 240)),
        ((256, 256), (256, 256), (16, 16, 240, 240)),
        ((224, 224), (256, 256), (16, 16, 240, 240)),
        ((100, 50), (512, 256), (144, 16, 368, 240)),
        ((50, 203), (256, 1039), (16, 408, 240, 632)),  # 407.5, to even
    ],
)
def test_a_picture_is_resized_and_cropped_to_the_pixel(
    size: tuple[int, int], resized: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = Image.fromarray(noise(*size))
    expected = np.asarray(image.resize(resized, Image.Resampling.BICUBIC).crop(box))
    found = FULL.crop(image)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [(322, 161), (206, 103), (374, 187), (187, 374)])
def test_a_long_side_that_is_a_whole_multiple_stays_one(size: tuple[int, int]) -> None:
    short = min(size)
    resized = size[0] // short * 256, size[1] // short * 256
    left, top = ((side - 224) // 2 for side in resized)
    image = Image.fromarray(noise(*size))
    expected = image.resize(resized, Image.Resampling.BICUBIC).crop(
        (left, top, left + 224, top + 224)
    )
    assert np.array_equal(FULL.crop(image), np.asarray(expected))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(33, 80))
def test_any_picture_becomes_the_input_size_and_stays_one_colour(
    width: int, height: int, img_size: int
) -> None:
    found = Preprocessing.for_size(img_size).crop(Image.new("RGB", (width, height), (9, 99, 199)))
    assert found.shape == (img_size, img_size, 3)
    assert (found == [9, 99, 199]).all()


def test_a_small_model_takes_pictures_as_they_are() -> None:
    pixels = noise(28, 28)
    assert np.array_equal(TINY.crop(Image.fromarray(pixels)), pixels)


@pytest.mark.parametrize("size", [(29, 28), (28, 27), (56, 56), (1, 1)])
def test_a_small_model_refuses_pictures_of_another_size(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.new("RGB", size).save(tmp_path / "x.png")
    problem = rf"x\.png is {size[0]} x {size[1]}: this model takes images of exactly 28 x 28"
    with pytest.raises(ImageError, match=problem):
        load_images(tmp_path, 8, TINY)


def test_normalising_follows_the_formula() -> None:
    images = np.stack([noise(6, 5, seed) for seed in range(3)])
    found = FULL.normalise(images)
    assert found.dtype == np.float32
    assert found.shape == (3, 3, 5, 6)
    assert found.flags.c_contiguous
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for channel in range(3):
        expected = (images[..., channel] / 255.0 - mean[channel]) / std[channel]
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=1e-6)


def test_pictures_are_normalised_on_the_way_in_and_what_is_normalised_passes() -> None:
    pixels = np.stack([noise(28, 28, seed) for seed in range(2)])
    ready = TINY.normalise(pixels)
    assert np.array_equal(TINY.to_input(pixels), ready)
    assert np.array_equal(TINY.to_input(ready), ready)


def test_normalising_uses_the_steps_own_mean_and_deviation() -> None:
    steps = Preprocessing(4, None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    found = steps.normalise(np.full((1, 4, 4, 3), 255, dtype=np.uint8))
    assert found[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
