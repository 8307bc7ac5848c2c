"""Labels of classes: where they are read from, and how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynexport.errors import InputError
from dynexport.visualize import visualize_images
from dynexport.visualize.labels import name_classes, read_labels


def test_classes_are_called_by_the_file(model: Path, folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "names.txt"
    names = [f"Nämé {number}" for number in range(10)]
    labels.write_text("\n".join(names) + "\n\n", encoding="utf-8-sig")
    images = (folder / "pictures", tmp_path / "out.png")
    named = visualize_images(model, *images, labels=labels)
    plain = visualize_images(model, *images)
    for one, other in zip(named.images, plain.images, strict=True):
        for (name, share), (number, same) in zip(one.classes, other.classes, strict=True):
            assert name == names[int(number.removeprefix("class "))]
            assert share == same


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\nb\n", "holds 2 names, and the model knows 10 classes: give one name a line"),
        (b"", "holds 0 names"),
        (b"\xff\xfe\x00", "is no text in UTF-8: expected the name of one class a line"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_labels(tmp_path / "names.txt", 10)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "tench"),
        (207, "golden retriever"),
        (281, "tabby"),
        (388, "giant panda"),
        (817, "sports car"),
        (999, "toilet tissue"),
    ],
)
def test_a_thousand_classes_are_imagenets(number: int, name: str) -> None:
    names = name_classes(1000)
    assert len(names) == 1000
    assert all(names)
    assert names[number] == name
