"""Questions about this installation, each answered in a process of its own.

Importing a package whose libraries do not fit this machine may end the interpreter, and so may a
driver. Here only the process that asks about it ends.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dynexport.errors import DynexportError
from dynexport.runtimes import libraries
from dynexport.runtimes.library import import_package

PATIENCE = 15.0
"""Seconds an answer may take."""

T = TypeVar("T")


class ProbeError(DynexportError):
    """What was asked raised something unforeseen, or ended its process."""


def ask(question: Callable[..., T], *arguments: str) -> T:
    """What one of `QUESTIONS` answers in a process of its own, as JSON gives it back.

    A DynexportError raised there is raised here in the same words; anything else that goes wrong
    is a `ProbeError`.
    """
    # -m would put the working folder first: import what this process imports
    start = f"import sys; sys.path[:] = {sys.path!r}; import dynexport.doctor.probes as probes"
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"{start}; probes.main()", question.__name__, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"it takes more than {PATIENCE:g} seconds") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not answers:
        raise ProbeError(_ending(done))
    reply = json.loads(answers[-1].removeprefix(_MARK))
    if "failed" in reply:
        raise ProbeError(reply["failed"])
    if "refused" in reply:
        raise DynexportError(reply["refused"])
    answer: T = reply["answer"]
    return answer


def import_packages(*named: str) -> list[str | None]:
    """What `import_package` says of each pair of a package and a module, all in one process."""
    return [import_package(*pair) for pair in zip(named[::2], named[1::2], strict=True)]


def examine_library(name: str) -> tuple[str | None, tuple[str, ...]]:
    """What a runtime's library says of itself, see `dynexport.runtimes.Library.examine`."""
    (library,) = (library for library in libraries() if library.name == name)
    return library.examine()


def ask_nvml() -> list[dict[str, Any]]:
    """The fields of `GpuFacts` of every GPU."""
    from dynexport.runtimes.nvml import list_gpus

    return [dataclasses.asdict(gpu) for gpu in list_gpus()]


def ask_cuda() -> tuple[str, str]:
    """Name and compute capability of the GPU that engines run on."""
    from dynexport.runtimes.cuda import current_device

    device = current_device()
    return device.name, device.capability


QUESTIONS: tuple[Callable[..., Any], ...] = (
    import_package,
    import_packages,
    examine_library,
    ask_nvml,
    ask_cuda,
)


def main() -> None:
    """In the process that `ask` starts: answer; what is raised is an answer as well."""
    name, *arguments = sys.argv[1:]
    reply: dict[str, Any]
    try:
        (question,) = (known for known in QUESTIONS if known.__name__ == name)
        reply = {"answer": question(*arguments)}
    except DynexportError as error:
        reply = {"refused": str(error)}
    except Exception as error:  # an import may raise anything
        reply = {"failed": _reason(error)}
    print(f"\n{_MARK}{json.dumps(reply)}", flush=True)


_MARK = "dynexport answers: "  # libraries write to stdout too


def _reason(error: BaseException) -> str:
    """The first line of the first cause; packages wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    """How a process ended that should have answered, and its last words."""
    ending = f"with exit code {done.returncode}"
    if done.returncode < 0:
        ending = f"by {signal.Signals(-done.returncode).name}"
    words = done.stderr.strip().splitlines()
    return f"it ends Python {ending}" + (f" ({words[-1]})" if words else "")
