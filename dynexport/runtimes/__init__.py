"""Runtimes behind one interface: open a model, run batches, close. One file a runtime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True)
class Backend:
    """A runtime of ONNX files.

    module    in this folder; has ``open_session(model, option, threads, profile)``, which returns a
              `Runner`, and ``require_installed(option)``
    option    what of the runtime is meant: an execution provider, a precision to compute in
    on_gpu    whether it computes on the GPU
    compiles  whether it makes a program of a graph as a whole: then a changed copy of the graph
              may round otherwise
    """

    module: str
    option: str
    on_gpu: bool = False
    compiles: bool = False


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "onnxruntime": Backend("onnxruntime", "CPUExecutionProvider"),
        "onnxruntime-cuda": Backend("onnxruntime", "CUDAExecutionProvider", on_gpu=True),
        "onnxruntime-tensorrt": Backend(
            "onnxruntime", "TensorrtExecutionProvider", on_gpu=True, compiles=True
        ),
        "openvino": Backend("openvino", "f32", compiles=True),
        "openvino-bf16": Backend("openvino", "bf16", compiles=True),
    }
)
"""By name on the command line. Engines are opened by `dynexport.engine`."""


def runs_on_gpu(backend: str) -> bool:
    """Whether a backend computes on the GPU."""
    return BACKENDS[backend].on_gpu


def require_backend(backend: str) -> None:
    """InputError unless there is a backend of this name."""
    if backend not in BACKENDS:
        raise InputError(unknown_choice("backend", backend, BACKENDS))


def require_runtime(backend: str) -> None:
    """MissingExtraError unless the runtime of a backend is installed, as far as can be told without
    opening a model."""
    require_backend(backend)
    _module_of(backend).require_installed(BACKENDS[backend].option)


def open_runner(
    backend: str, model: str | Path | bytes, threads: int | None = None, profile: bool = False
) -> Runner:
    """Open an ONNX file (or its bytes); MissingExtraError if the runtime is not installed.

    threads: cores to use, None for the runtime's choice; profile: time layers, see `LayerRunner`.
    """
    require_backend(backend)
    option = BACKENDS[backend].option
    runner: Runner = _module_of(backend).open_session(model, option, threads, profile)
    return runner


def _module_of(backend: str) -> Any:
    return importlib.import_module(f"dynexport.runtimes.{BACKENDS[backend].module}")
