"""Whether a command took what it was given as it should."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fuzz.cases import GIVEN, draw_case
from fuzz.contents import MARKER
from fuzz.samples import Samples

MEMORY = 6 << 30
"""Bytes a process may take."""

NOISE = re.compile(
    r"Traceback|^\S*\d{4}-\d\d-\d\d .*onnxruntime|^  File \"|\[TRT\]|Error: |^\[[EWF]\]"
)
"""What libraries say past dynexport."""

SAID = ("... ", "warning: ", "note: ", "error: ")
"""How lines on stderr begin; nothing else stands there where a command fails."""


@dataclass(frozen=True)
class Verdict:
    """What came of an input.

    fault  what was wrong with how it was taken; "" where nothing was
    """

    arguments: tuple[str, ...]
    code: int | None
    err: str
    fault: str


class Workplace(AbstractContextManager["Workplace"]):
    """A process that judges inputs, with bounds on what it may take."""

    def __init__(self, samples: Path) -> None:
        self._folder = samples

    def __enter__(self) -> Workplace:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.environ["XDG_CACHE_HOME"] = str(self._folder / "cache")
        self.samples = Samples(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        pass


def judge(place: Workplace, seed: int, number: int, kept: Path | None = None) -> Verdict:
    """Draw an input and give it to its command, here and now; ``kept``: a folder for its files."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz")) if kept is None else kept
    arguments = draw_case(place.samples, folder, seed, number)
    if kept is not None:
        arguments.append("--verbose")
    before = _files(folder / GIVEN)
    start = Path.cwd()
    os.chdir(folder)
    try:
        code, out, err = _run(arguments)
        left = sorted(path for path in _files(folder) if not path.startswith(f"{GIVEN}/"))
        changed = not before.items() <= _files(folder / GIVEN).items()  # a report may join them
        fault = _fault_in(code, out, err) or _fault_of(code, left, changed)
    finally:
        os.chdir(start)
        if kept is None:
            shutil.rmtree(folder)
    return Verdict(tuple(arguments), code, err, fault)


def _run(arguments: list[str]) -> tuple[int | None, str, str]:
    """The exit code, and what was written to stdout and stderr, by libraries too."""
    from dynexport.cli import main

    with _caught(1) as out, _caught(2) as err:
        try:
            main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        except BaseException as error:
            print(f"{type(error).__name__} escaped: {error}", file=sys.stderr)
            code = None
    return code, out[0], err[0]


@contextmanager
def _caught(descriptor: int) -> Iterator[list[str]]:
    """What is written to a file descriptor meanwhile."""
    told: list[str] = []
    stream = sys.stdout if descriptor == 1 else sys.stderr
    stream.flush()
    before = os.dup(descriptor)
    with tempfile.TemporaryFile(dir="/tmp") as file:
        os.dup2(file.fileno(), descriptor)
        try:
            yield told
        finally:
            stream.flush()
            os.dup2(before, descriptor)
            os.close(before)
            file.seek(0)
            told.append(file.read().decode("utf-8", "replace"))


def _fault_in(code: int | None, out: str, err: str) -> str:
    """What is wrong with how a command ended, and what it said."""
    lines = [line for line in err.splitlines() if line.strip()]
    if code not in (0, 1, 2):
        return f"exit code {code}: {lines[-1].rpartition('see where: ')[2] if lines else ''}"
    noise = [line for line in lines if NOISE.search(line) and not line.startswith(SAID)]
    usage = any(line.startswith("Usage: ") for line in lines)  # the command line's own refusal
    if usage:
        return ""
    if code == 2:
        noise += [line for line in lines if not line.startswith(SAID)]
    if noise:
        return f"noise: {noise[0]}"
    if code != 2:
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1:
        return f"{len(errors)} sentences: {errors[-1] if errors else lines}"
    if "the system refuses" in errors[0]:
        return f"left to the system: {errors[0]}"
    if len(errors[0]) > 2000:
        return f"a sentence of {len(errors[0])} characters: {errors[0][:200]}"
    return f"printed beside an error: {out.splitlines()[0]}" if out.strip() else ""


def _fault_of(code: int | None, left: list[str], changed: bool) -> str:
    """What is wrong with the files."""
    if MARKER in left:
        return "code of the input was run"
    if changed:
        return "an input was changed"
    return f"left behind: {', '.join(left)}" if left and code != 0 else ""


def _files(folder: Path) -> dict[str, bytes]:
    """Files under a folder, and what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
