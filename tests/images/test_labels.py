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


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat/a.png", "cat/b.png", "dog/x y/a.png"], [0, 0, 1]),
        (["10/a.png", "2/a.png", "9/a.png"], [0, 1, 2]),  # by name, as torchvision has it
        (["cat/a.png", "dog/a.png", "x.png"], None),
        (["cat/a.png", "cat/b.png"], None),
        (["a.png", "b.png"], None),
    ],
)
def test_class_folders_are_labels(
    tmp_path: Path, names: list[str], labels: list[int] | None
) -> None:
    found = open_images(save_folder(tmp_path, names), TINY).labels
    assert (None if found is None else found.tolist()) == labels


def test_a_class_without_pictures_keeps_its_number_and_a_tools_folder_has_none(
    tmp_path: Path,
) -> None:
    save_folder(tmp_path, ["a/1.png", "c/1.png"])
    for name in ("b", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    for name in ("a/._1.png", "__MACOSX/1.png", ".git/1.png"):
        (tmp_path / name).write_text("no picture")
    found = open_images(tmp_path, TINY)
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
