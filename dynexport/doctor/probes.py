"""Questions about this installation, each answered in a process of its own.

Importing a package whose libraries do not fit this machine may end the interpreter, and so may a
driver. Here only the process that asks about it ends.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dynexport.errors import DynexportError

PATIENCE = 15.0
"""Seconds an answer may take."""

UNKNOWN = "of unknown version"
"""The version of what is installed but does not tell."""

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


def version_of(package: str) -> str | None:
    """Its version by what pip recorded, without importing it; None if pip knows of none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_package(package: str, module: str) -> str | None:
    """Version of a package once its module is imported; None where there is no such module."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            return None
        raise
    if loaded.__file__ is None:  # a folder that happens to have its name
        return None
    parents = [module.rsplit(".", dots)[0] for dots in range(module.count(".") + 1)]
    told = (getattr(sys.modules[parent], "__version__", None) for parent in parents)
    return version_of(package) or next(filter(None, told), UNKNOWN)


def import_packages(*named: str) -> list[str | None]:
    """What `import_package` says of each pair of a package and a module, all in one process."""
    return [import_package(*pair) for pair in zip(named[::2], named[1::2], strict=True)]


def import_onnxruntime() -> tuple[str | None, list[str]]:
    """Version of ONNX Runtime, whichever of its packages it is from, and its providers."""
    if import_package("onnxruntime", "onnxruntime") is None:
        return None, []
    import onnxruntime

    return onnxruntime.__version__, onnxruntime.get_available_providers()


def import_tensorrt(flavour: str) -> str | None:
    """Version of a TensorRT; None if it is not installed."""
    from dynexport.runtimes.tensorrt import FLAVOURS

    return FLAVOURS[flavour].version()


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
    import_onnxruntime,
    import_tensorrt,
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
