"""What may be wrong in a folder of images, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from made.pictures import CROPPED, TINY, save_folder
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import Preprocessing, open_images


def test_a_linked_folder_is_searched_once(tmp_path: Path) -> None:
    save_folder(tmp_path / "far", ["1.png", "2.png"])
    near = save_folder(tmp_path / "near", ["a/1.png"])
    (near / "b").symlink_to(tmp_path / "far")
    (near / "b" / "back").symlink_to(near)  # a loop
    images = open_images(near, TINY).labelled(2)
    assert [path.relative_to(near).as_posix() for path in images.images.files] == [  # type: ignore[union-attr]
        "a/1.png",
        "b/1.png",
        "b/2.png",
    ]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]


def test_every_file_that_is_no_picture_is_counted_before_the_work(tmp_path: Path) -> None:
    save_folder(tmp_path, [f"{n}.png" for n in range(10)])
    for name in "13579":
        (tmp_path / f"{name}.png").write_text("no picture")
    with pytest.raises(ImageError) as error:
        open_images(tmp_path, TINY)
    assert str(error.value) == (
        "5 of 10 images cannot be used, remove or replace them: "
        f"{tmp_path / '1.png'} is not a readable image; "
        f"{tmp_path / '3.png'} is not a readable image; "
        f"{tmp_path / '5.png'} is not a readable image; and 2 more"
    )
    assert open_images(tmp_path, TINY, count=5).count == 5  # only those chosen count


def test_pictures_found_to_be_cut_short_are_all_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{number}.jpg")
    for number in (2, 5):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:-600])
    images = open_images(tmp_path, CROPPED)  # the heads are sound
    batches = images.batches(2)
    assert len(next(batches)) == 2
    with pytest.raises(ImageError, match=r"2 of 6 images .*2\.jpg is not .*; .*5\.jpg is not"):
        next(batches)


def test_a_picture_too_narrow_to_be_resized_is_refused_before_the_memory_is_taken(
    tmp_path: Path,
) -> None:
    Image.new("L", (1, 60000)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"x\.png is 1 x 60000: too narrow"):
        open_images(tmp_path, Preprocessing.for_size(224))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save_folder(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "b").chmod(0)
    with pytest.raises(ImageError, match="b cannot be read: check its permissions"):
        open_images(tmp_path, TINY)
