"""Labels of images: of folders, of arrays, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made.pictures import TINY, colours, numbered, save_folder, save_npz
from numpy.typing import NDArray

from dynexport.errors import ImageError
from dynexport.images import open_images
from dynexport.images.class_folders import _synsets


@pytest.mark.parametrize(
    ("names", "classes", "labels", "told_by"),
    [
        (["cat/a.png", "cat/b.png", "dog/x y/a.png"], 2, [0, 0, 1], "folders in name order"),
        (["10/a.png", "2/a.png", "9/a.png"], 11, [10, 2, 9], "folders are class numbers"),
        (["0/a.png", "1/a.png", "02/a.png"], 3, [0, 2, 1], "folders are class numbers"),
        (
            ["n02102040/a.png", "n01440764/a.png", "n15075141/a.png", "n03888257/a.png"],
            1000,
            [0, 217, 701, 999],
            "folders are ImageNet-1k's synsets",
        ),
        (["n02102040/a.png", "n01440764/a.png"], 2, [0, 1], "folders in name order"),
        (["cat/a.png", "dog/a.png", "x.png"], 2, None, ""),
        (["cat/a.png", "cat/b.png"], 2, None, ""),
        (["a.png", "b.png"], 2, None, ""),
    ],
)
def test_class_folders_are_labels(
    tmp_path: Path, names: list[str], classes: int, labels: list[int] | None, told_by: str
) -> None:
    """Of the pictures in the order of their paths."""
    images = open_images(save_folder(tmp_path, names), TINY)
    assert images.labels is None  # for calibration they stand for nothing
    found = images.labelled(classes)
    assert (None if found.labels is None else found.labels.tolist()) == labels
    assert found.images.told_by == told_by


@pytest.mark.parametrize(
    ("names", "classes", "unknown"),
    [
        (["cat/a.png", "dog/a.png"], 10, "'cat'"),
        (["1/a.png", "2/a.png"], 2, "'2'"),  # counted from 1
        (["7/a.png", "dog/a.png"], 10, "'7'"),
        (["n01440764/a.png", "n02102040/a.png"], 100, "'n01440764'"),
        (["n01440764/a.png", "n00000001/a.png"], 1000, "'n00000001'"),
        (["٣/a.png", "٤/a.png"], 10, "'٣'"),  # digits, but nobody's class numbers
    ],
)
def test_folders_that_tell_no_class_are_refused(
    tmp_path: Path, names: list[str], classes: int, unknown: str
) -> None:
    images = open_images(save_folder(tmp_path, names), TINY)
    with pytest.raises(ImageError) as error:
        images.labelled(classes)
    assert str(error.value) == (
        f"{tmp_path} has 2 folders, and {unknown} tells none of the model's {classes} classes, 0 "
        f"to {classes - 1}: write classes.txt into it, one folder name a line in the order of the "
        "classes"
    )


def test_a_listing_in_the_folder_says_it_otherwise(tmp_path: Path) -> None:
    images = open_images(save_folder(tmp_path, ["1/a.png", "0/a.png", "0/b.png"]), TINY)
    (tmp_path / "classes.txt").write_text("\ufeff1 \r\nother\r\n0\r\n\r\n", encoding="utf-8")
    found = images.labelled(3)
    assert found.labels is not None
    assert found.labels.tolist() == [2, 2, 0]
    assert found.images.told_by == "folders in the order of classes.txt"


@pytest.mark.parametrize(
    ("listing", "problem"),
    [
        ("cat\ndog\n", "names 2 different folders in 2 lines, and the model knows 3 classes"),
        ("cat\ndog\ncat\n", "names 2 different folders in 3 lines"),
        ("", "names 0 different folders in 0 lines"),
        ("cat\ncow\nhen\n", "has 2 folders, and 'dog' tells none of the model's 3 classes"),
        (b"\xff\xfe", "is no text in UTF-8"),
    ],
)
def test_a_listing_that_does_not_fit_is_refused(
    tmp_path: Path, listing: str | bytes, problem: str
) -> None:
    images = open_images(save_folder(tmp_path, ["cat/a.png", "dog/a.png"]), TINY)
    content = listing if isinstance(listing, bytes) else listing.encode()
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ImageError, match=problem):
        images.labelled(3)


def test_the_synsets_of_imagenet_stand_in_order() -> None:
    """A class's name tells its place, however few of its folders are there."""
    known = _synsets()
    assert list(known.values()) == list(range(1000))
    assert list(known) == sorted(known)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdecimal() for name in known)


def test_a_class_without_pictures_keeps_its_number_and_a_tools_folder_has_none(
    tmp_path: Path,
) -> None:
    save_folder(tmp_path, ["a/1.png", "c/1.png"])
    for name in ("b", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    for name in ("a/._1.png", "__MACOSX/1.png", ".git/1.png"):
        (tmp_path / name).write_text("no picture")
    found = open_images(tmp_path, TINY).labelled(3)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2]
    assert colours(found) == [0, 1]


def test_labels_follow_the_choice(tmp_path: Path) -> None:
    labels = np.array([5, 1, 4, 1, 3, 9, 2, 6, 5, 3], dtype=np.int16)
    path = save_npz(tmp_path / "x.npz", images=numbered(10), labels=labels)
    images = open_images(path, TINY, count=4, seed=3)
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [int(labels[number]) for number in colours(images)]
    first, second = images.split(0.5)
    assert first.labels is not None
    assert second.labels is not None
    assert sorted([*first.labels, *second.labels]) == sorted(images.labels)
    assert open_images(save_npz(path, images=numbered(10)), TINY).labels is None


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (np.zeros(3, dtype=np.int64), "3 labels for 2 images: expected one each"),
        (np.zeros(2), r"'labels' is float64 \[2\], expected whole numbers \(N,\)"),
        (np.zeros((2, 1), dtype=np.int64), r"'labels' is int64 \[2, 1\]"),
        (np.array(["cat", "dog"]), r"'labels' is <U3 \[2\]"),
    ],
)
def test_labels_of_another_kind_are_refused(
    tmp_path: Path, labels: NDArray[Any], problem: str
) -> None:
    path = save_npz(tmp_path / "x.npz", images=numbered(2), labels=labels)
    with pytest.raises(ImageError, match=problem):
        open_images(path, TINY)
