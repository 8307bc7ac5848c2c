"""Files written whole or not at all, what identifies them, and what modules declare."""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dynexport.errors import InputError


def name_checkpoint(checkpoint: str | Path) -> str:
    """What files made of a checkpoint are called after: NAME, for NAME.pth or NAME.pth.tar."""
    stem = Path(checkpoint).name
    while Path(stem).suffix in (".pth", ".pt", ".tar", ".safetensors"):
        stem = Path(stem).stem
    return stem


def existing_file(path: str | Path, kind: str) -> Path:
    """The path, if a readable regular file stands there; InputError names what was expected."""
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: expected {kind}")
        there = path.exists()
    except OSError:  # a name no file can have
        there = False
    if not there:
        raise InputError(f"{path} does not exist: expected {kind}")
    if not path.is_file():  # a pipe gives its content once, a device without end
        raise InputError(f"{path} is no regular file: expected {kind}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: check its permissions")
    return path


@contextmanager
def written_whole(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Temporary paths, moved onto ``targets`` together when the block succeeds.

    They bear the targets' own names, in a temporary folder beside each: files may name each other.
    A target that is a link stays one: the file it leads to is written, and the folder is beside
    that.

    When it raises or is interrupted, the targets stay as they were, and the temporary files and
    the folders made for them are removed.
    """
    drafts: dict[tuple[Path, Path], Path] = {}
    paths: list[Path] = []
    made: list[Path] = []
    try:
        for target in targets:
            made += _make_folder(target)
            place = target.parent, _written(target).parent
            if place not in drafts:
                drafts[place] = _folder_in(place[1], target)
            paths.append(drafts[place] / target.name)
            paths[-1].touch()
        yield tuple(paths)
        for path, target in zip(paths, targets, strict=True):
            os.replace(path, _written(target))
        made.clear()
    except OSError as error:  # a full disk, a folder taken away
        raise _cannot_write(targets[0], error.strerror) from None
    finally:
        for draft in drafts.values():
            shutil.rmtree(draft, ignore_errors=True)
        for folder in made:  # the innermost first
            folder.rmdir()


def save(target: Path, content: bytes) -> None:
    """Write a file whole, or not at all; InputError if it cannot be written."""
    with written_whole(target) as (draft,):
        draft.write_bytes(content)


def require_writable(target: Path) -> None:
    """InputError unless ``target`` can be a file, as far as can be told without writing."""
    try:
        if not target.name or target.is_dir():
            raise InputError(f"{target} is a folder: name a file to write")
        if target.exists() and not target.is_file():
            raise InputError(f"{target} is no regular file: name one to write")
        file = _written(target)
        nearest = next(folder for folder in file.absolute().parents if folder.exists())
    except OSError as error:  # a name no file can have, links in a circle
        raise _cannot_write(target, error.strerror) from None
    if not nearest.is_dir():
        raise _cannot_write(target, f"{nearest} is a file, not a folder")
    if target.is_symlink() and nearest != file.parent:
        raise _cannot_write(target, f"it is a link to {file}, whose folder does not exist")
    if not os.access(nearest, os.W_OK):
        raise _cannot_write(target, f"no permission to write in {nearest}")


def require_onnx_target(target: Path) -> None:
    """InputError unless ``target`` can be an ONNX file to write, as far as can be told."""
    require_writable(target)
    if target.suffix != ".onnx":
        raise InputError(f"{target} does not end in .onnx: name the ONNX file to write")


def require_kept(sources: Iterable[str | Path | None], *targets: Path) -> None:
    """InputError if a file that is read would be overwritten by one of ``targets``."""
    written = {os.path.realpath(target) for target in targets}
    for source in sources:
        if source is not None and os.path.realpath(source) in written:
            raise InputError(f"{source} would be overwritten: choose another file with -o")


def _make_folder(target: Path) -> list[Path]:
    """Make the folder ``target`` goes into; the folders made, the innermost first."""
    require_writable(target)
    file = _written(target).absolute()
    missing = [folder for folder in file.parents if not folder.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(target, error.strerror) from None
    return missing


def _written(target: Path) -> Path:
    """The file that writing to ``target`` writes: where it leads, if it is a link.

    OSError where links lead back to it.
    """
    if not target.is_symlink():
        return target
    with suppress(FileNotFoundError):  # a link to what is not there yet
        target.stat()
    return Path(os.path.realpath(target))


def _cannot_write(target: Path, reason: str | None) -> InputError:
    return InputError(f"cannot write {target}: {reason}; choose another place with -o")


def _folder_in(folder: Path, target: Path) -> Path:
    """A temporary folder in the one that ``target`` goes into."""
    try:
        return Path(tempfile.mkdtemp(dir=folder, prefix="."))
    except OSError as error:
        raise _cannot_write(target, error.strerror) from None


def cache_folder() -> Path:
    """Where what can be made again is kept for the user (XDG base directory specification).

    Among the temporary files for a user with no home, as in a container.
    """
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "dynexport"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def folders_of(package: str, own: Iterable[str]) -> list[str]:
    """The folders a package's modules stand in: its own, and each of its name on the search path.

    A folder with an ``__init__.py`` is no such addition, but another copy of the package.
    """
    parts = package.split(".")
    further = [Path(entry, *parts) for entry in sys.path]
    return [
        *own,
        *(
            str(folder)
            for folder in further
            if folder.is_dir() and not (folder / "__init__.py").exists()
        ),
    ]


def declared_in(package: str, folders: Iterable[str], name: str) -> list[Any]:
    """What the modules of a package declare under a name, as ``NAME = (one, another)``.

    They do so at their top; the order is that of the folders and of their file names. The modules
    are imported.
    """
    declared: list[Any] = []
    for found in pkgutil.iter_modules(folders, f"{package}."):
        try:
            module = importlib.import_module(found.name)
        except Exception as error:  # whatever it does
            folder = getattr(found.module_finder, "path", "")
            raise InputError(
                f"{found.name}, in {folder}, cannot be imported: {type(error).__name__}: {error}; "
                "correct it, or take it off the search path"
            ) from error
        declared += getattr(module, name, ())
    return declared
