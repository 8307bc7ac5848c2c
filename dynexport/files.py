"""Files written whole or not at all, and what identifies them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynexport.errors import InputError


def existing_file(path: str | Path, kind: str) -> Path:
    """The path, if a readable file stands there; InputError names what was expected."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected {kind}")
    if not path.exists():
        raise InputError(f"{path} does not exist: expected {kind}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: check its permissions")
    return path


@contextmanager
def written_whole(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Temporary paths beside ``targets``, renamed onto them together when the block succeeds.

    When it raises, or the process is interrupted, the targets stay as they were and the
    temporary files are removed.
    """
    drafts: list[Path] = []
    try:
        drafts.extend(map(_draft_beside, targets))
        yield tuple(drafts)
        for draft, target in zip(drafts, targets, strict=True):
            os.replace(draft, target)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def _draft_beside(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise InputError(f"{target} is a folder: name a file to write")
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.suffix)
    except OSError as error:
        raise InputError(
            f"cannot write to {target.parent}: {error.strerror}; choose another place with -o"
        ) from None
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    return Path(name)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
