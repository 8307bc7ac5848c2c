"""The command line in pipes and in terminals."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from made.terminals import CHECKPOINT, run_piped, start

from dynexport.conversion import Conversion

pytestmark = pytest.mark.slow

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


CONTROL = re.compile(r"\x1b|[\u2500-\u257f]")
"""An escape sequence, or a line of a box."""


def run_on_terminal(*arguments: object, **settings: str) -> str:
    """What a person sees, control sequences and all."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(  # type: ignore[call-overload]
        **start(*arguments, **settings), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux tells that the other side is closed
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("convert", "--help"),
        ("convrt",),
        ("verify",),
        ("doctor",),
        ("inspect", "none"),
    ],
)
def test_a_pipe_gets_plain_text(arguments: tuple[str, ...]) -> None:
    done = run_piped(*arguments)
    assert not CONTROL.search(done.stdout + done.stderr)


def test_help_in_a_pipe_cuts_no_sentence_short() -> None:
    assert "..." not in run_piped("--help").stdout.replace("[ARGS]...", "")


def test_results_are_plain_in_a_pipe_and_coloured_on_demand(tiny_conversion: Conversion) -> None:
    plain = run_piped("verify", tiny_conversion.onnx)
    assert plain.stdout.startswith("verified with onnxruntime")
    assert not CONTROL.search(plain.stdout + plain.stderr)
    forced = run_piped("verify", tiny_conversion.onnx, FORCE_COLOR="1")
    assert forced.stdout.startswith("\x1b[32mverified\x1b[0m with onnxruntime")
    assert forced.stderr == plain.stderr  # no spinner where nobody watches it turn
    both = run_piped("verify", tiny_conversion.onnx, FORCE_COLOR="1", NO_COLOR="1")
    assert not COLOUR.search(both.stdout + both.stderr)


def test_a_terminal_shows_a_spinner_that_goes(tiny_conversion: Conversion) -> None:
    shown = run_on_terminal("verify", tiny_conversion.onnx)
    assert re.search(r"[\u2800-\u28ff].*verify .*0:00:0\d", shown)
    assert "\x1b[?25h" in shown  # the cursor is back
    assert COLOUR.search(shown)
    assert not COLOUR.search(run_on_terminal("verify", tiny_conversion.onnx, NO_COLOR="1"))


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tiny_conversion: Conversion) -> None:
    shown = run_on_terminal("verify", tiny_conversion.onnx, TERM="dumb")
    assert shown.startswith("... verify ")
    assert not CONTROL.search(shown + run_on_terminal("--help", TERM="dumb"))


def test_quiet_shows_the_result_alone(tiny_conversion: Conversion) -> None:
    assert run_piped("verify", tiny_conversion.onnx, "-q").stderr == ""
    assert "verify" not in run_on_terminal("verify", tiny_conversion.onnx, "-q")


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("inspect", "-q"), ("inspect", "--json", "-q")]
)
@pytest.mark.parametrize("forced", ["", "1"])
def test_a_closed_pipe_ends_it_quietly(
    arguments: tuple[str, ...], forced: str, tiny_conversion: Conversion
) -> None:
    read, write = os.pipe()
    os.close(read)
    asked = [tiny_conversion.onnx] if "inspect" in arguments else []
    started = start(*arguments, *asked, FORCE_COLOR=forced)
    done = subprocess.run(**started, stdout=write, stderr=subprocess.PIPE)  # type: ignore[call-overload]
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_names_that_an_encoding_lacks_are_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "模.pth").write_bytes(CHECKPOINT.read_bytes())
    done = run_piped("inspect", tmp_path / "模.pth", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"\u6a21.pth" in done.stdout
