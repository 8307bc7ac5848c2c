"""Pictures in: sizes to the pixel, every colour mode, and every picture that cannot be used."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import Preprocessing, load_images, synthetic_images
from dynexport.images.folder import SUFFIXES

TINY = Preprocessing.for_size(28)
FULL = Preprocessing.for_size(224)


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(colour: int) -> Image.Image:
    return Image.new("RGB", (28, 28), (colour, colour, colour))


def black(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.zeros(shape, dtype=np.uint8)


# ---------------------------------------------------------------- resize, crop, normalise


@pytest.mark.parametrize(
    ("img_size", "resize"),
    [(224, 256), (384, 438), (256, 292), (64, 73), (33, 37), (32, None), (28, None)],
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


# ---------------------------------------------------------------- pictures from a folder


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(noise(28, 28)).convert(mode)
    picture.save(tmp_path / "x.tif" if mode in {"CMYK", "YCbCr"} else tmp_path / "x.png")
    expected = np.asarray(picture.convert("RGB"))
    found = load_images(tmp_path, 1, TINY)
    assert found.shape == (1, 28, 28, 3)
    assert found.dtype == np.uint8
    # PNG and TIFF lose nothing but, in some modes, a rounding of colour
    assert np.abs(found[0].astype(int) - expected.astype(int)).max() <= 2


def test_grey_has_three_equal_channels_and_a_transparent_palette_reads(tmp_path: Path) -> None:
    plain(51).convert("L").save(tmp_path / "a.png")
    plain(51).convert("P").save(tmp_path / "b.gif", transparency=0)
    assert (load_images(tmp_path, 2, TINY) == 51).all()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
@pytest.mark.parametrize("upper", [False, True])
def test_every_suffix_is_found_in_either_case(tmp_path: Path, suffix: str, upper: bool) -> None:
    name = f"x{suffix.upper() if upper else suffix}"
    plain(128).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = load_images(tmp_path, 8, TINY)
    assert len(found) == 1
    assert abs(found.astype(int) - 128).max() <= 2


def test_pictures_come_in_name_order_through_subfolders(tmp_path: Path) -> None:
    for colour, name in enumerate(["a/2.png", "a/3.png", "b b/1.png", "ü/0.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        plain(10 * colour).save(tmp_path / name)
    assert load_images(tmp_path, 8, TINY)[:, 0, 0, 0].tolist() == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("total", "count", "taken"),
    [
        (10, 5, [0, 2, 4, 6, 8]),
        (10, 3, [0, 3, 6]),
        (10, 1, [0]),
        (4, 4, [0, 1, 2, 3]),
        (3, 8, [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_the_pictures_taken_are_spread_evenly(
    tmp_path: Path, total: int, count: int, taken: list[int], as_folder: bool
) -> None:
    source = tmp_path
    if as_folder:
        for number in range(total):
            plain(number).save(tmp_path / f"{number:02}.png")
    else:
        source = tmp_path / "x.npz"
        np.savez(source, images=np.stack([np.asarray(plain(n)) for n in range(total)]))
    assert load_images(source, count, TINY)[:, 0, 0, 0].tolist() == taken


@pytest.mark.parametrize("content", [None, "notes.txt", "folder.png/notes.txt"])
def test_a_folder_without_pictures_is_refused_with_the_suffixes(
    tmp_path: Path, content: str | None
) -> None:
    if content:
        (tmp_path / content).parent.mkdir(exist_ok=True)
        (tmp_path / content).write_text("x")
    with pytest.raises(ImageError) as error:
        load_images(tmp_path, 8, TINY)
    assert str(error.value).startswith(f"no images in {tmp_path}: expected files ending in .bmp, ")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"none does not exist: give a folder of images or an \.npz"
    ):
        load_images(tmp_path / "none", 8, TINY)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif", ".webp"])
@pytest.mark.parametrize("left", [0.0, 0.1, 0.5])
def test_a_picture_cut_short_is_refused_by_name(tmp_path: Path, suffix: str, left: float) -> None:
    path = tmp_path / f"b{suffix}"
    Image.fromarray(noise(28, 28)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * left)])
    plain(0).save(tmp_path / "a.png")
    with pytest.raises(ImageError) as error:
        load_images(tmp_path, 8, TINY)
    assert str(error.value) == (
        f"1 of 2 images cannot be used, remove or replace them: {path} is not a readable image"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("x.jpg", b"text", id="text"),
        pytest.param("x.png", b"\x89PNG\r\n\x1a\n" + bytes(30), id="head of a png"),
        pytest.param("x.ppm", b"P6\n2x 2\n255\n" + bytes(12), id="head of a ppm"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=rf"{name} is not a readable image"):
        load_images(tmp_path, 8, TINY)


# ---------------------------------------------------------------- pictures from an .npz


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
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("text"),
        write_other_name,
        write_objects,
        write_cut,
        write_picture,
        pytest.param(write_zip),
        pytest.param(write_damaged),
        pytest.param(write_array),
    ],
)
def test_a_file_that_is_no_archive_of_images_is_refused(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    path = tmp_path / "x.npz"
    write(path)
    with pytest.raises(ImageError) as error:
        load_images(path, 8, TINY)
    assert str(error.value) == (
        f"{path} is no folder and no .npz with an array 'images': give one of the two"
    )


# ---------------------------------------------------------------- pictures from a seed


def test_synthetic_images_are_the_same_for_the_same_seed_and_size() -> None:
    assert np.array_equal(synthetic_images(3, 28), synthetic_images(3, 28))
    assert np.array_equal(synthetic_images(5, 28)[:3], synthetic_images(3, 28))
    assert not np.array_equal(synthetic_images(3, 28), synthetic_images(3, 28, seed=1))


@pytest.mark.parametrize("img_size", [28, 224])
def test_synthetic_images_differ_clearly_from_each_other(img_size: int) -> None:
    images = synthetic_images(8, img_size)
    assert images.shape == (8, img_size, img_size, 3)
    assert images.dtype == np.uint8
    for first in range(8):
        for second in range(first):
            difference = images[first].astype(int) - images[second].astype(int)
            assert np.abs(difference).mean() > 20


def test_synthetic_images_are_smooth_and_use_the_whole_range() -> None:
    images = synthetic_images(4, 224).astype(int)
    neighbours = np.abs(np.diff(images, axis=1)).mean()
    strangers = np.abs(images - images[:, ::-1]).mean()
    assert neighbours < strangers / 2
    assert images.min() < 30
    assert images.max() > 225
