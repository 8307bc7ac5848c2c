"""Images in a folder and its subfolders, read one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import ImageError
from dynexport.files import sha256_of
from dynexport.images.class_folders import number_folders
from dynexport.images.preprocessing import Preprocessing

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

NAMED = 3
"""How many of the files that cannot be used an error tells of; the others are counted."""


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Files in name order, N of them.

    labels   int64 (N,), the class that the folder of each stands for, see `labelled`
    told_by  what told the classes
    """

    path: Path
    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None = None
    told_by: str = ""

    @classmethod
    def open(cls, path: Path) -> ImageFolder:
        """Find the images; ImageError if there are none."""
        files = tuple(sorted(_walk(path)))
        if not files:
            raise ImageError(
                f"no images in {path}: expected files ending in {', '.join(sorted(SUFFIXES))}"
            )
        return cls(path, files)

    def labelled(self, classes: int) -> ImageFolder:
        """The same for a model of so many classes, as `number_folders` tells them.

        Without labels unless every file lies in a folder, of two or more. Empty folders count too:
        the numbers are those of training.
        """
        names = sorted(p.name for p in self.path.iterdir() if p.is_dir() and not _is_hidden(p.name))
        inside = [file.relative_to(self.path).parts for file in self.files]
        if len(names) < 2 or any(len(parts) < 2 for parts in inside):
            return self
        told = number_folders(self.path, names, classes)
        labels = np.array([told.numbers[parts[0]] for parts in inside], dtype=np.int64)
        return replace(self, labels=labels, told_by=told.how)

    @property
    def total(self) -> int:
        return len(self.files)

    def check(self, places: Sequence[int], steps: Preprocessing) -> None:
        """ImageError that names the files that cannot be used, as far as their heads tell."""
        steps.require_pictures()
        found = (_problem_with(self.files[place], steps) for place in places)
        _require_none([problem for problem in found if problem], len(places))

    def read(self, places: Sequence[int], steps: Preprocessing) -> Iterator[NDArray[Any]]:
        """The images at these places, uint8 (H, W, C) of the model's input size.

        After one that cannot be read the others are still tried, so that the ImageError names
        them all.
        """
        problems: list[str] = []
        for place in places:
            try:
                picture = steps.read(self.files[place])
            except ImageError as problem:
                problems.append(str(problem))
                continue
            if not problems:
                yield picture
        _require_none(problems, len(places))

    def fingerprints(self, places: Sequence[int]) -> Iterator[bytes]:
        """What tells each image at these places from any other: a digest of the file."""
        for place in places:
            yield _digest_of(self.files[place])


def _walk(folder: Path) -> Iterator[Path]:
    """Every file with the suffix of an image, through links too, each folder once.

    Hidden files are no pictures: a Mac's archives hold one, ``._NAME.jpg``, beside every picture.
    """
    seen: set[Path] = set()
    for at, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        here = Path(at)
        seen.add(here.resolve())
        folders[:] = [
            name
            for name in sorted(folders)
            if not _is_hidden(name) and (here / name).resolve() not in seen
        ]
        for name in names:
            path = here / name
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _is_hidden(folder: str) -> bool:
    """Whether a folder of this name is a tool's own: .git, __MACOSX, __pycache__."""
    return folder.startswith((".", "__"))


def _problem_with(file: Path, steps: Preprocessing) -> str:
    try:
        steps.check(file)
    except ImageError as problem:
        return str(problem)
    return ""


def _digest_of(file: Path) -> bytes:
    try:
        return bytes.fromhex(sha256_of(file))
    except OSError:
        raise ImageError(f"{file} is not a readable image") from None


def _refuse_folder(error: OSError) -> None:
    raise ImageError(f"{error.filename} cannot be read: check its permissions")


def _require_none(problems: Sequence[str], total: int) -> None:
    """ImageError that tells of the first few and counts the others."""
    if not problems:
        return
    told = "; ".join(problems[:NAMED])
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    raise ImageError(
        f"{len(problems)} of {total} images cannot be used, remove or replace them: {told}{more}"
    )
