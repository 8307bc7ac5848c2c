"""What a timing process opens besides ONNX files: the plain model in PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plain import plain_model
from torch import nn

PLAIN_OPENER = "openers:open_plain"


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


def open_plain(
    model: str, counts: Sequence[int], compiled: bool, threads: int | None
) -> PlainRunner:
    """An opener: a published variant's plain form, eager or compiled; no counts: dense."""
    if threads:
        torch.set_num_threads(threads)
    plain = plain_model(model, counts)
    if compiled:
        inductor: Any = importlib.import_module("torch._inductor.config")
        inductor.compile_threads = 1  # a pool of processes would stay alive while others are timed
        plain = torch.compile(plain)  # type: ignore[assignment]
    return PlainRunner(plain)
