"""Processes that answer what they are asked, and what becomes of one that cannot."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dynexport.errors import DynexportError
from dynexport.files import existing_file
from dynexport.workers import Worker, WorkerError, ask_once

SLOW_TO_CLOSE = """
import atexit, time
from contextlib import contextmanager

@contextmanager
def opened(text):
    yield text

class Held:
    def __init__(self, log):
        self.log, self.calls = log, 0
    def __enter__(self):
        self.log.write_text("open")
        return self
    def __exit__(self, *_):
        self.log.write_text(f"closed after {self.calls}")
    def count(self, step):
        print("a library prints this")
        self.calls += step
        return self.calls

def fail_to_end():
    atexit.register(__import__("os")._exit, 4)
    return "an answer"
"""


def test_another_process_answers() -> None:
    assert ask_once(os.getpid) != os.getpid()
    assert ask_once(divmod, 7, 3) == (2, 1)


def test_what_is_held_lives_as_long_as_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holding.py").write_text(SLOW_TO_CLOSE)
    monkeypatch.syspath_prepend(tmp_path)
    import holding  # type: ignore[import-not-found]

    log = tmp_path / "log"
    with Worker(holding.Held(log)) as worker:
        assert log.read_text() == "open"
        assert worker.ask(holding.Held.count, 2) == 2
        assert worker.ask(holding.Held.count, 3) == 5
        with pytest.raises(WorkerError, match="TypeError"):
            worker.ask(holding.Held.count, "x")
        assert worker.ask(holding.Held.count, 1) == 6  # it goes on
    assert log.read_text() == "closed after 6"
    with pytest.raises(WorkerError, match="it ends Python with exit code 4"):
        ask_once(holding.fail_to_end)


@pytest.mark.parametrize(
    ("question", "arguments", "reason"),
    [
        (os._exit, (3,), "it ends Python with exit code 3"),
        (signal.raise_signal, (signal.SIGKILL,), "it ends Python by SIGKILL"),
        (time.sleep, (60,), "it takes more than 0.5 seconds"),
        (int, ("x",), "ValueError: invalid literal"),
        (os.open, ("/", os.O_WRONLY), "IsADirectoryError"),
    ],
)
def test_a_process_that_cannot_answer(question: object, arguments: object, reason: str) -> None:
    with pytest.raises(WorkerError, match=reason):
        ask_once(question, *arguments, seconds=None if "0.5" not in reason else 0.5)  # type: ignore[arg-type, misc]


def test_an_error_of_dynexports_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(DynexportError, match="does not exist: expected a cake") as raised:
        ask_once(existing_file, tmp_path / "none", "a cake")
    assert not isinstance(raised.value, WorkerError)
