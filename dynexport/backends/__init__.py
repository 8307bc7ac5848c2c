"""Runtimes behind one interface: open a model, run batches, close. One file a runtime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import InputError, unknown_choice

Further = Mapping[str, NDArray[np.int64]]
"""Inputs beside the images, by name, their first dimension the batch: a choice to be replayed
(`dynexport.graph.replay`)."""

NO_INPUTS: Further = MappingProxyType({})


class Runner(Protocol):
    """A model opened in a runtime, used as a context manager."""

    def run(
        self, images: NDArray[np.float32], further: Further = NO_INPUTS
    ) -> Mapping[str, NDArray[np.generic]]:
        """images float32 (B, 3, H, W), and by name what else the graph takes -> outputs by name."""
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class GpuRunner(Protocol):
    """A runner that can time its work on the GPU apart from moving images and answers."""

    def measure(self) -> tuple[float, float]:
        """One run on the images of the last `run`: seconds of the GPU, and of the host to enqueue
        it."""
        ...


@runtime_checkable
class LayerRunner(Protocol):
    """A runner that times its layers, when it was opened for that."""

    def layers(self) -> Mapping[str, float]:
        """Median milliseconds by layer, over all runs since it was opened, the last one asked."""
        ...


BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "CPUExecutionProvider",
        "onnxruntime-cuda": "CUDAExecutionProvider",
        "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    }
)
"""Name on the command line -> ONNX Runtime's execution provider. Engines are opened by
`dynexport.engine`."""


def runs_on_gpu(backend: str) -> bool:
    """Whether a backend computes on the GPU."""
    return BACKENDS[backend] != BACKENDS["onnxruntime"]


def require_backend(backend: str) -> None:
    """InputError unless there is a backend of this name."""
    if backend not in BACKENDS:
        raise InputError(unknown_choice("backend", backend, BACKENDS))


def require_runtime(backend: str) -> None:
    """MissingExtraError unless the runtime of a backend is installed, as far as can be told without
    opening a model."""
    require_backend(backend)
    importlib.import_module("dynexport.backends.onnxruntime").require_provider(BACKENDS[backend])


def open_runner(
    backend: str, model: str | Path | bytes, threads: int | None = None, profile: bool = False
) -> Runner:
    """Open an ONNX file (or its bytes); MissingExtraError if the runtime is not installed.

    threads: cores to use, None for the runtime's choice; profile: time layers, see `LayerRunner`.
    """
    require_backend(backend)
    module = importlib.import_module("dynexport.backends.onnxruntime")
    runner: Runner = module.open_session(model, BACKENDS[backend], threads, profile)
    return runner
