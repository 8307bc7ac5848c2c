"""Runtimes behind one interface: open a model, run batches, close. One file a runtime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import InputError, unknown_choice


class Runner(Protocol):
    """A model opened in a runtime, used as a context manager."""

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]:
        """images float32 (B, 3, H, W) -> outputs by name."""
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


BACKENDS: Mapping[str, str] = MappingProxyType({"onnxruntime": "dynexport.backends.onnxruntime"})
"""Name on the command line to the module whose ``open_runner`` opens an ONNX file."""


def open_runner(backend: str, model: str | Path | bytes, threads: int | None = None) -> Runner:
    """Open an ONNX file (or its bytes) in a runtime; MissingExtraError if it is not installed."""
    if backend not in BACKENDS:
        raise InputError(unknown_choice("backend", backend, BACKENDS))
    runner: Runner = importlib.import_module(BACKENDS[backend]).open_runner(model, threads)
    return runner
