"""Images of one channel, of four and of any number; pictures warped in place of cropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made.drawn import noise
from numpy.typing import NDArray
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import Preprocessing, load_images, open_images, synthetic_images


def many(channels: int, count: int = 2, size: int = 28) -> NDArray[np.uint8]:
    return synthetic_images(count, size, seed=1, channels=channels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_become_grey_for_one_channel(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(noise(28, 28)).convert(mode)
    picture.save(tmp_path / "x.png")
    found = load_images(tmp_path, 1, Preprocessing.for_size(28, 1))
    assert found.shape == (1, 28, 28, 1)
    assert np.array_equal(found[0, :, :, 0], np.asarray(picture.convert("L")))


def test_pictures_with_alpha_have_four_channels(tmp_path: Path) -> None:
    pixels = many(4)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, :, :3]).convert("P").save(tmp_path / "b.png", transparency=0)
    found = load_images(tmp_path, 2, Preprocessing.for_size(28, 4))
    assert np.array_equal(found[0], pixels)
    assert set(np.unique(found[1, :, :, 3])) <= {0, 255}


def test_a_picture_without_alpha_has_no_fourth_channel(tmp_path: Path) -> None:
    Image.fromarray(noise(28, 28)).save(tmp_path / "x.png")
    Image.fromarray(noise(28, 28)).convert("CMYK").save(tmp_path / "y.tif")  # has four, of ink
    with pytest.raises(ImageError) as error:
        open_images(tmp_path, Preprocessing.for_size(28, 4))
    assert str(error.value) == (
        "2 of 2 images cannot be used, remove or replace them: "
        f"{tmp_path / 'x.png'} has channels R, G, B, and this model takes 4: give pictures with "
        "red, green, blue and alpha, or an .npz; "
        f"{tmp_path / 'y.tif'} has channels C, M, Y, K, and this model takes 4: give pictures with "
        "red, green, blue and alpha, or an .npz"
    )


@pytest.mark.parametrize("channels", [2, 6])
def test_no_picture_has_two_or_six_channels(tmp_path: Path, channels: int) -> None:
    Image.fromarray(noise(28, 28)).save(tmp_path / "x.png")
    with pytest.raises(ImageError) as error:
        open_images(tmp_path, Preprocessing.for_size(28, channels))
    assert str(error.value) == (
        f"pictures have 1, 3 or 4 channels, and this model takes {channels}: give an .npz with "
        f"'images', uint8 (N, H, W, {channels})"
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_arrays_have_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    steps, pixels = Preprocessing.for_size(28, channels), many(channels)
    np.savez(tmp_path / "x.npz", images=pixels)
    assert np.array_equal(load_images(tmp_path / "x.npz", 8, steps), pixels)
    ready = steps.to_input(pixels)
    assert ready.shape == (2, channels, 28, 28)
    np.savez(tmp_path / "y.npz", images=ready)
    assert np.array_equal(load_images(tmp_path / "y.npz", 8, steps), ready)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_channels_of_an_array_are_resized_one_by_one(tmp_path: Path, channels: int) -> None:
    """A fourth is not taken for alpha, by which Pillow would weigh the others."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 90, 120, channels), dtype=np.uint8)
    pixels[..., -1] = pixels[..., -1] // 128  # where it is 0, alpha would make the others black
    np.savez(tmp_path / "x.npz", images=pixels)
    found = load_images(tmp_path / "x.npz", 1, Preprocessing.for_size(64, channels))
    assert found.shape == (1, 64, 64, channels)
    grey = Preprocessing.for_size(64, 1)
    for channel in range(channels):
        alone = grey.crop(Image.fromarray(np.ascontiguousarray(pixels[0, :, :, channel])))
        assert np.array_equal(found[0, :, :, channel], alone[:, :, 0])


@pytest.mark.parametrize(
    ("images", "channels", "shown"),
    [
        (many(3), 1, r"uint8 \[2, 28, 28, 3\], expected uint8 \(N, H, W, 1\), or float32 \(N, 1"),
        (many(3), 4, r"uint8 \[2, 28, 28, 3\], expected uint8 \(N, H, W, 4\)"),
        (many(6).transpose(0, 3, 1, 2), 6, r"uint8 \[2, 6, 28, 28\], expected uint8 \(N, H, W, 6"),
        (many(1)[..., 0], 1, r"uint8 \[2, 28, 28\], expected uint8 \(N, H, W, 1\)"),
        (many(6).astype(np.float32), 6, r"float32 \[2, 28, 28, 6\]"),
    ],
)
def test_arrays_of_other_channels_are_refused(
    tmp_path: Path, images: NDArray[Any], channels: int, shown: str
) -> None:
    np.savez(tmp_path / "x.npz", images=np.ascontiguousarray(images))
    with pytest.raises(ImageError, match=shown):
        open_images(tmp_path / "x.npz", Preprocessing.for_size(28, channels))


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    mean, std = tuple(n / 10 for n in range(6)), tuple(n / 10 + 0.1 for n in range(6))
    steps = Preprocessing(28, None, mean, std)
    pixels = many(6)
    found = steps.normalise(pixels)
    for channel in range(6):
        expected = (pixels[..., channel] / 255.0 - mean[channel]) / std[channel]
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_synthetic_images_have_as_many_channels(channels: int) -> None:
    images = open_images(None, Preprocessing.for_size((20, 28), channels), count=3)
    found = np.stack(list(images.pictures()))
    assert found.shape == (3, 20, 28, channels)
    assert np.array_equal(found, synthetic_images(3, (20, 28), channels=channels))
    flat = found.reshape(3, -1, channels).astype(int)
    for one in range(channels):
        for other in range(one):
            assert np.abs(flat[..., one] - flat[..., other]).mean() > 20


def test_from_384_pixels_on_nothing_is_cut_away() -> None:
    """A ramp from black to white, 640 x 480: DynamicViT's datasets.py resizes it to a square."""
    ramp = (np.linspace(0, 255, 640)[None, :, None] * np.ones((480, 1, 3))).astype(np.uint8)
    picture = Image.fromarray(ramp)
    found = Preprocessing.for_size(384).crop(picture)
    assert np.array_equal(found, np.asarray(picture.resize((384, 384), Image.Resampling.BICUBIC)))
    assert (found.min(), found.max()) == (0, 255)
    assert Preprocessing.for_size(383).crop(picture).min() > 30


def test_a_warp_may_be_cut_and_an_oblong_input_warps() -> None:
    picture = Image.fromarray(noise(300, 200))
    whole = picture.resize((64, 128), Image.Resampling.BICUBIC)
    assert np.array_equal(Preprocessing.for_size((128, 64)).crop(picture), np.asarray(whole))
    cut = picture.resize((128, 128), Image.Resampling.BICUBIC).crop((32, 32, 96, 96))
    steps = Preprocessing.for_size(64, warp=True, crop_pct=0.5)
    assert np.array_equal(steps.crop(picture), np.asarray(cut))


def test_an_oblong_crop_covers_the_input() -> None:
    """As timm's ResizeKeepRatio does it: nothing is filled up."""
    picture = Image.fromarray(noise(300, 200))
    steps = Preprocessing.for_size((64, 128), crop_pct=0.8)
    assert steps.resize == (80, 160)
    larger = picture.resize((160, 106), Image.Resampling.BICUBIC).crop((16, 21, 144, 85))
    assert np.array_equal(steps.crop(picture), np.asarray(larger))
    tall = Image.fromarray(noise(50, 203))
    resized = tall.resize((160, 649), Image.Resampling.BICUBIC).crop((16, 292, 144, 356))
    assert np.array_equal(steps.crop(tall), np.asarray(resized))


def test_a_warped_picture_may_be_of_any_shape() -> None:
    found = Preprocessing.for_size(384).crop(Image.new("RGB", (1, 60000), (9, 99, 199)))
    assert (found == [9, 99, 199]).all()
