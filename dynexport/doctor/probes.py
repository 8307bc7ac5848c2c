"""Questions about this installation, each answered in a process of its own.

Importing a package whose libraries do not fit this machine may end the interpreter, and so may a
driver. Here only the process that asks about it ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from dynexport.errors import DynexportError
from dynexport.runtimes import libraries
from dynexport.runtimes.library import import_package
from dynexport.workers import WorkerError, ask_once

PATIENCE = 15.0
"""Seconds an answer may take."""

T = TypeVar("T")


class ProbeError(DynexportError):
    """What was asked raised something unforeseen, or ended its process."""


def ask(question: Callable[..., T], *arguments: str) -> T:
    """What a question is answered in a process of its own.

    A DynexportError raised there is raised here in the same words; anything else that goes wrong
    is a `ProbeError`.
    """
    try:
        return ask_once(question, *arguments, seconds=PATIENCE)
    except WorkerError as error:
        raise ProbeError(str(error)) from None


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
