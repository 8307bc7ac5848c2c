"""Rows on disk that outlive a kill: one JSON object a line, the first says what they are of."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dynexport.errors import InputError
from dynexport.files import save

if sys.platform != "win32":
    import fcntl

FORMAT = 1


def identified(name: str, digest: str) -> dict[str, str]:
    """A value of a journal's subject that is told by its name, and compared by its digest."""
    return {"name": name, "digest": digest}


@dataclass(frozen=True)
class Journal:
    """A journal that is open, and nobody else's meanwhile.

    rows    those found in it, in the order they were finished
    append  adds one: it is on the disk when this returns
    """

    rows: tuple[dict[str, Any], ...]
    append: Callable[[Mapping[str, Any]], None]


@contextmanager
def open_journal(path: Path, subject: Mapping[str, Any], other: str) -> Iterator[Journal]:
    """Open a journal, begun where there is none; a last line that a kill cut short is dropped.

    subject  what its rows are of, plain or `identified` values by name
    other    what to do where it is another's

    InputError if the journal is of something else, is damaged, or another process has it open.
    """
    if not path.exists():
        save(path, _line({"format": FORMAT, "of": dict(subject)}))
    try:
        stream = path.open("r+b", buffering=0)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; {other}") from None
    with stream:
        _lock(stream, path)
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        first, *rows = _parse(content[:whole], path, other)
        _require_same(first, subject, path, other)
        stream.truncate(whole)
        stream.seek(whole)

        def append(row: Mapping[str, Any]) -> None:
            try:
                stream.write(_line(row))
                os.fsync(stream.fileno())
            except OSError as error:  # a full disk
                raise InputError(
                    f"cannot write {path}: {error.strerror}; make room, and go on with the same "
                    "command"
                ) from None

        yield Journal(tuple(rows), append)


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()


def _parse(content: bytes, path: Path, other: str) -> list[dict[str, Any]]:
    """Every line of a journal; InputError names the one that is none."""
    lines = content.splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(line)
        except ValueError:
            raise InputError(
                f"line {number} of {path} is damaged: remove that line, or {other}"
            ) from None
        found.append(row)
    if not found or found[0].get("format") != FORMAT or not isinstance(found[0].get("of"), dict):
        raise InputError(f"{path} does not say what its rows are of: remove it, or {other}")
    return found


def _require_same(
    first: Mapping[str, Any], subject: Mapping[str, Any], path: Path, other: str
) -> None:
    """InputError that says what differs, unless the rows are of this subject."""
    then, now = first["of"], json.loads(json.dumps(dict(subject)))
    differing = [
        name for name in {**then, **now} if _identity(then.get(name)) != _identity(now.get(name))
    ]
    if differing:
        told = "; ".join(
            f"{name} was {_told(then.get(name))} and is {_told(now.get(name))}"
            for name in differing
        )
        raise InputError(f"{path} is of something else: {told}; {other}")


def _identity(value: Any) -> Any:
    return value.get("digest") if isinstance(value, dict) else value


def _told(value: Any) -> str:
    """A value for people: of a digest its beginning, which tells files of one name apart."""
    if isinstance(value, dict):
        name, digest = str(value.get("name")), str(value.get("digest"))
        return name if name == digest else f"{name} ({digest[:8]})"
    return "not given" if value is None else str(value)


def _lock(stream: BinaryIO, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another process is writing to {path}: wait for it to end, or choose another folder "
            "with -o"
        ) from None
    except OSError:  # a file system without locks
        return
