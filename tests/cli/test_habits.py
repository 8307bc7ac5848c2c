"""The command line in pipes and terminals, interrupted, misspelt, at fault, completed by shells."""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dynexport.calibration import METHODS
from dynexport.cli import choices, main
from dynexport.conversion import Conversion
from dynexport.graph.fuse import TARGETS
from dynexport.models import families, variants
from dynexport.precision import precisions
from dynexport.progress import are_heard, let_through, unheard
from dynexport.runtimes import runtimes
from dynexport.runtimes.tensorrt import EDITIONS
from dynexport.tasks import tasks

pytestmark = pytest.mark.slow

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
CONTROL = re.compile(r"\x1b|[\u2500-\u257f]")
"""An escape sequence, or a line of a box."""

CHECKPOINT = Path(__file__).parents[2] / "examples/mnist/mnist-deit.pth"

Run = Callable[..., tuple[object, str, str]]


def start(*arguments: object, **settings: str) -> dict[str, object]:
    """What a process of the command line is started with, for `subprocess`; not in the source
    tree, whose folders -m would take for the installed package."""
    free = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    return {
        "args": [sys.executable, "-m", "dynexport", *map(str, arguments)],
        "env": {**free, "TERM": "xterm", **settings},
        "cwd": CHECKPOINT.anchor,
    }


def run_piped(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        **start(*arguments, **settings), capture_output=True, encoding="utf-8", check=False
    )


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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return left.value.code, *capsys.readouterr()

    return call


# ---------------------------------------------------------------- what it says of itself


def test_the_version_tells_those_of_python_and_the_runtimes(run: Run) -> None:
    code, out, err = run("--version")
    first, python, *packages = out.splitlines()
    assert (code, err) == (0, "")
    assert first == f"dynexport {importlib.metadata.version('dynexport')}"
    assert python.startswith(f"Python {sys.version.split()[0]} on ")
    for name in ("torch", "onnx", "onnxruntime", "openvino", "tensorrt-rtx"):
        assert f"{name} {importlib.metadata.version(name)}" in packages
    assert not any(line.startswith(("tensorrt ", "onnxruntime-gpu ")) for line in packages)


def test_as_a_module_it_goes_by_the_same_name() -> None:
    assert run_piped("--help").stdout.startswith("Usage: dynexport [OPTIONS]")
    assert "Try 'dynexport verify -h'" in run_piped("verify").stderr


# ---------------------------------------------------------------- pipes and terminals


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


# ---------------------------------------------------------------- --verbose


def test_verbose_tells_the_seconds_of_each_step(run: Run, tiny_conversion: Conversion) -> None:
    code, _, err = run("verify", tiny_conversion.onnx, "--verbose")
    begun, done = err.splitlines()
    assert code == 0
    assert begun == f"... verify {tiny_conversion.onnx}"
    assert re.fullmatch(re.escape(begun) + r": \d+\.\d\d s", done)
    assert run("verify", tiny_conversion.onnx)[2] == f"{begun}\n"


def test_verbose_lets_the_libraries_remark(
    run: Run, tiny_conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []
    verify = __import__("dynexport.verify", fromlist=["verify_model"]).verify_model

    def listen(*given: object, **options: object) -> object:
        heard.append(are_heard())
        return verify(*given, **options)

    monkeypatch.setattr("dynexport.verify.verify_model", listen)
    for flags in ((), ("-v",), ()):
        run("verify", tiny_conversion.onnx, *flags)
    assert heard == [False, True, False]


def test_remarks_are_unheard_unless_let_through(caplog: pytest.LogCaptureFixture) -> None:
    def remark() -> int:
        with warnings.catch_warnings(record=True) as seen, unheard("talkative"):
            warnings.warn("a remark", stacklevel=1)
            logging.getLogger("talkative").warning("a remark")
        return len(seen)

    assert (remark(), caplog.messages) == (0, [])
    let_through(True)
    try:
        assert (remark(), caplog.messages) == (1, ["a remark"])
    finally:
        let_through(False)
    assert logging.getLogger("talkative").level == logging.NOTSET


# ---------------------------------------------------------------- faults and interruptions


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Has `verify` meet what nobody foresaw."""

    def fail(error: BaseException) -> None:
        def verify_model(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("dynexport.verify.verify_model", verify_model)

    return fail


def test_a_fault_of_its_own_is_one_sentence(
    run: Run, broken: Callable[[BaseException], None]
) -> None:
    broken(ValueError("two\nlines"))
    code, out, err = run("verify", "m.onnx", "-q")
    assert (code, out) == (70, "")
    assert err == (
        "error: a fault of dynexport's own, run it again with --verbose to see where: "
        "ValueError: two\n"
    )


def test_verbose_shows_where_a_fault_is(run: Run, broken: Callable[[BaseException], None]) -> None:
    broken(KeyError("lost"))
    code, out, err = run("verify", "m.onnx", "-v")
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
    run: Run, broken: Callable[[BaseException], None], error: BaseException, told: str
) -> None:
    broken(error)
    code, out, err = run("verify", "m.onnx", "-q")
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


# ---------------------------------------------------------------- did you mean


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("convert C --precision fp-16", "fp16"),
        ("convert C --precision INT8-fp16", "int8-fp16"),
        ("convert C --precision fp16 --io-precision haf", "half"),
        ("convert C --precision int8 --calibration-data D --calibration-method minmax", "min-max"),
        ("convert C --precision int8 --calibration-data D --fallback-to aut", "auto"),
        ("convert C --model diet-s", "deit-s"),
        ("convert C --target tensort", "tensorrt"),
        ("convert C --edition rtx", "tensorrt-rtx"),
        ("verify M --backend onxruntime", "onnxruntime"),
        ("bench M --backend onnxruntime,openvno", "openvino"),
        ("check M --edition TensorRT", "tensorrt"),
        ("build M --edition tensorrt_rtx", "tensorrt-rtx"),
        ("visualize M D --backend openvin", "openvino"),
        ("sweep C --ratios 0.7 --precision fp32,in8-dynamic", "int8-dynamic"),
        ("sweep C --ratios 0.7 --backend openvin", "openvino"),
    ],
)
def test_a_misspelt_name_brings_the_nearest(
    run: Run, tiny_conversion: Conversion, tiny_checkpoint: Path, command: str, meant: str
) -> None:
    files = {"C": tiny_checkpoint, "M": tiny_conversion.onnx, "D": tiny_conversion.reference}
    code, out, err = run(*(files.get(word, word) for word in command.split()))
    assert (code, out) == (2, "")
    assert f"did you mean {meant!r}? choose from " in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("convrt", "'convert'"),
        ("visualise", "'visualize'"),
        ("convert x --precison fp16", "--precision"),
    ],
)
def test_a_misspelt_command_or_option_brings_the_nearest(
    run: Run, command: str, meant: str
) -> None:
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    assert meant in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("build {M} --backend tensorrt-rtx -o b.engine", "--edition tensorrt-rtx"),
        ("check {M} --backend tensorrt-rtx", "--edition tensorrt-rtx"),
        ("convert {C} --engine tensorrt-rtx -o c.onnx", "--edition tensorrt-rtx"),
    ],
)
def test_an_old_spelling_works_on_and_says_the_new_one(
    run: Run, tiny_conversion: Conversion, tiny_checkpoint: Path, tmp_path: Path, old: str, new: str
) -> None:
    words = old.format(C=tiny_checkpoint, M=tiny_conversion.onnx).split()
    (at,) = (place for place, word in enumerate(words) if word in ("--backend", "--engine"))
    code, _, err = run(*words, "--quiet")
    assert (code, err) == (
        0,
        f"note: {words[at]} {words[at + 1]} is spelt {new} now; the old spelling goes on working\n",
    )
    built = {"build": ["b.engine"], "check": [], "convert": ["c.engine"]}[words[0]]
    assert [path.name for path in tmp_path.glob("*.engine")] == built
    code, out, _ = run(words[0], "--help")
    assert "--edition" in out
    assert "--backend" not in out


def test_an_engine_goes_where_it_is_asked_for(
    run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("convert", tiny_checkpoint, "-o", "m.onnx", "--engine", "rtx/m.engine", "-q")
    assert run(*arguments, "--edition", "tensorrt-rtx")[::2] == (0, "")
    assert (tmp_path / "rtx" / "m.engine").is_file()
    assert not (tmp_path / "m.engine").exists()
    code, _, err = run("convert", tiny_checkpoint, "--engine", "rtx")
    assert code == 2
    assert "rtx does not end in .engine: name the engine to write" in err


# ---------------------------------------------------------------- completion


def completed(typed: str) -> list[str]:
    """What bash offers for the last word."""
    words = typed.split(" ")
    done = run_piped(
        _DYNEXPORT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dynexport vi", ["visualize"]),
        ("dynexport convert --calibration-m", ["--calibration-method"]),
        ("dynexport convert --precision int8", ["int8", "int8-fp16", "int8-dynamic"]),
        ("dynexport convert --model swin", ["swin-t", "swin-s", "swin-b"]),
        ("dynexport convert --calibration-method mse,p", ["mse,percentile"]),
        ("dynexport convert --edition ", ["tensorrt", "tensorrt-rtx", "auto"]),
        ("dynexport convert --target ", ["any", "tensorrt"]),
        ("dynexport verify m.onnx --backend openvino", ["openvino", "openvino-bf16"]),
        ("dynexport bench --backend openvino,openvino", ["openvino,openvino-bf16"]),
        ("dynexport build m.onnx --edition t", ["tensorrt", "tensorrt-rtx"]),
        ("dynexport convert ", []),  # a file: bash's own
    ],
)
def test_a_shell_completes(typed: str, offered: list[str]) -> None:
    assert completed(typed) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_there_for_each_shell(shell: str) -> None:
    script = run_piped("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0
    assert f"_DYNEXPORT_COMPLETE=complete_{shell}" in script.stdout


def test_names_that_complete_are_those_that_exist() -> None:
    assert tuple(variants()) == choices.MODELS
    assert tuple(precisions()) == choices.PRECISIONS
    assert tuple(runtimes()) == choices.BACKENDS
    assert (*EDITIONS, "auto") == choices.EDITIONS
    assert set(METHODS) == set(choices.METHODS)
    assert TARGETS == choices.TARGETS
    offered = {task for family in families().values() for task in family.tasks}
    assert {task.name: task for task in offered} == tasks()
    assert tuple(tasks()) == choices.TASKS
