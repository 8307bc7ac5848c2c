"""PyTorch, eager, on the CPU: a module behind the same interface as the runtimes."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class TorchRunner:
    """An inference form; see `dynexport.backends.Runner`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        output = self._module(torch.from_numpy(images))
        kept = {f"kept_{stage}": rows.numpy() for stage, rows in enumerate(output.tokens.kept)}
        return {name: value.numpy() for name, value in output.outputs.items()} | kept

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def open_module(module: nn.Module, threads: int | None = None) -> TorchRunner:
    """Run an inference form on ``threads`` cores (None: PyTorch's choice)."""
    if threads:
        torch.set_num_threads(threads)
    return TorchRunner(module)
