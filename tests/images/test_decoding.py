"""Pictures from a folder, of every kind that Pillow reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made.drawn import TINY, noise, plain
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import load_images
from dynexport.images.folder import SUFFIXES


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
