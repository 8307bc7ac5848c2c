"""What a timing process opens: the plain model in PyTorch, and ONNX files of others."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plain import plain_model
from torch import nn

from dynexport.runtimes import Runner, open_runner


class PlainRunner:
    """A plain model; see `dynexport.runtimes.Runner`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        return {"logits": self._module(torch.from_numpy(images)).numpy()}

    def __enter__(self) -> PlainRunner:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class PlainModel:
    """A published variant's plain form, eager or compiled; no counts: dense."""

    model: str
    counts: tuple[int, ...]
    compiled: bool

    def open(self, threads: int | None = None, profile: bool = False) -> PlainRunner:
        """See `dynexport.bench.stopwatch.Openable`."""
        if threads:
            torch.set_num_threads(threads)
        plain = plain_model(self.model, self.counts)
        if self.compiled:
            inductor: Any = importlib.import_module("torch._inductor.config")
            inductor.compile_threads = 1  # a pool of processes would stay alive while others run
            plain = torch.compile(plain)  # type: ignore[assignment]
        return PlainRunner(plain)


@dataclass(frozen=True)
class InRuntime:
    """An ONNX file, whoever wrote it, in a runtime."""

    path: str
    runtime: str

    def open(self, threads: int | None = None, profile: bool = False) -> Runner:
        """See `dynexport.bench.stopwatch.Openable`."""
        return open_runner(self.runtime, self.path, threads, profile)
