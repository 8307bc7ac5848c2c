"""Which of a model's classes a folder of pictures stands for, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dynexport.errors import ImageError

LISTING = "classes.txt"
"""In a folder: the names of the folders in it, one a line in the order of the model's classes."""

IMAGENET_CLASSES = 1000
"""A model with so many classes is taken to be one of ImageNet-1k, in its usual order: by synset."""


@dataclass(frozen=True)
class Numbering:
    """The class that each folder stands for, by name, and how that was told."""

    numbers: Mapping[str, int]
    how: str


def number_folders(path: Path, names: Sequence[str], classes: int) -> Numbering:
    """The classes that folders in ``path`` stand for, in a model of so many ``classes``.

    What `LISTING` says, where there is one; a number is a class; a synset is that of ImageNet-1k
    where the model has 1000 classes; else as many folders as classes are numbered by name.
    ImageError where none of these tells.
    """
    listed = _read_listing(path / LISTING, classes)
    known = _synsets() if classes == IMAGENET_CLASSES else {}
    if listed is not None:
        numbers, how = listed, f"folders in the order of {LISTING}"
    elif all(name.isascii() and name.isdecimal() for name in names):
        numbers, how = {name: int(name) for name in names}, "folders are class numbers"
    elif all(name in known for name in names):
        numbers, how = known, "folders are ImageNet-1k's synsets"
    elif len(names) == classes:
        numbers, how = {name: place for place, name in enumerate(names)}, "folders in name order"
    else:
        numbers, how = {}, ""
    unknown = [name for name in names if not 0 <= numbers.get(name, -1) < classes]
    if unknown:
        raise ImageError(
            f"{path} has {len(names)} folders, and {unknown[0]!r} tells none of the model's "
            f"{classes} classes, 0 to {classes - 1}: write classes.txt into it, one folder name a "
            "line in the order of the classes"
        )
    return Numbering({name: numbers[name] for name in names}, how)


def _read_listing(file: Path, classes: int) -> Mapping[str, int] | None:
    """Name to number; None where there is no such file, ImageError where it is no list of them."""
    if not file.is_file():
        return None
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ImageError(f"{file} is no text in UTF-8: expected one folder name a line") from None
    listed = {name.strip(): place for place, name in enumerate(lines)}
    if not len(listed) == len(lines) == classes:
        raise ImageError(
            f"{file} names {len(listed)} different folders in {len(lines)} lines, and the model "
            f"knows {classes} classes: give one folder name a line, in the order of the classes"
        )
    return listed


def _synsets() -> Mapping[str, int]:
    """ImageNet-1k's synset to its class: they are sorted."""
    names = resources.files("dynexport.images").joinpath("imagenet_synsets.txt")
    return {name: place for place, name in enumerate(names.read_text("utf-8").split())}
