"""The command line at fault, and interrupted."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made.terminals import CHECKPOINT, Ask, start

pytestmark = pytest.mark.slow


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Has `verify` meet what nobody foresaw."""

    def fail(error: BaseException) -> None:
        def verify_model(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("dynexport.verify.verify_model", verify_model)

    return fail


def test_a_fault_of_its_own_is_one_sentence(
    ask: Ask, broken: Callable[[BaseException], None]
) -> None:
    broken(ValueError("two\nlines"))
    code, out, err = ask("verify", "m.onnx", "-q")
    assert (code, out) == (70, "")
    assert err == (
        "error: a fault of dynexport's own, run it again with --verbose to see where: "
        "ValueError: two\n"
    )


def test_verbose_shows_where_a_fault_is(ask: Ask, broken: Callable[[BaseException], None]) -> None:
    broken(KeyError("lost"))
    code, out, err = ask("verify", "m.onnx", "-v")
    assert (code, out) == (70, "")
    assert "Traceback (most recent call last):" in err
    assert "in verify_model" in err
    assert err.endswith("error: a fault of dynexport's own, as shown above: KeyError: 'lost'\n")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device: 'x'"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_its_own(
    ask: Ask, broken: Callable[[BaseException], None], error: BaseException, told: str
) -> None:
    broken(error)
    code, out, err = ask("verify", "m.onnx", "-q")
    assert (code, out) == (2, "")
    assert err.startswith("error: the system refuses: ")
    assert err.endswith(f"{told}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(  # type: ignore[call-overload]
        **{**start("convert", CHECKPOINT, "-o", "new/m.onnx"), "cwd": tmp_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = ""
    while not seen.endswith("... export ONNX\n"):
        seen += process.stderr.readline()
    os.killpg(process.pid, number)  # as a terminal does it
    out, err = process.communicate()
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert list(tmp_path.iterdir()) == []


IMPORT_INTERRUPTED = """
import runpy, signal, sys

class Impatient:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Impatient())
sys.argv = ["dynexport", "models"]
runpy.run_module("dynexport", run_name="__main__")
"""


def test_an_interruption_while_it_starts_is_quiet(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_INTERRUPTED],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
