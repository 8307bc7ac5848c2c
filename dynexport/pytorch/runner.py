"""PyTorch, eager or compiled, on the CPU or a GPU: a module behind the same interface."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dynexport.errors import DeviceError
from dynexport.formats.metadata import Metadata
from dynexport.models import find_family, load_plugins
from dynexport.pytorch.rewrite import rewrite, schedule_of


class TorchRunner:
    """An inference form; see `dynexport.runtimes.Runner`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        return _on_host(self._module(torch.from_numpy(images)))

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class TorchCudaRunner(TorchRunner):
    """The same on a GPU; see `dynexport.runtimes.GpuRunner`."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(module)
        self._dtype = dtype
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        self._images: Any = None

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        self._images = torch.from_numpy(images).to("cuda", self._dtype)
        return _on_host(self._module(self._images))

    @torch.inference_mode()
    def measure(self) -> tuple[float, float]:
        begin, end = self._events
        start = perf_counter()
        begin.record()
        self._module(self._images)
        end.record()
        enqueued = perf_counter() - start
        end.synchronize()
        return begin.elapsed_time(end) / 1000.0, enqueued


def open_module(
    module: nn.Module,
    threads: int | None = None,
    *,
    device: str = "cpu",
    half: bool = False,
    compiled: bool = False,
) -> TorchRunner:
    """Run an inference form on ``threads`` cores (None: PyTorch's choice), or on a GPU.

    half: weights and images in float16, on a GPU; compiled: through torch.compile.
    """
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("PyTorch sees no GPU here: time without it, with `pytorch=False`")
        torch.backends.cudnn.allow_tf32 = False  # as its matrix products: float32 means float32
        module = module.to(device, torch.float16 if half else torch.float32)
    if compiled:
        module = torch.compile(module)  # type: ignore[assignment]
    if device == "cuda":
        return TorchCudaRunner(module, torch.float16 if half else torch.float32)
    return TorchRunner(module)


def open_pytorch(
    metadata: Metadata,
    dense: bool,
    threads: int | None = None,
    plugins: Sequence[str] = (),
    *,
    device: str = "cpu",
    half: bool = False,
    compiled: bool = False,
) -> TorchRunner:
    """The inference form an ONNX file was made from, with random weights, for timing only.

    A process that times it imports no exporter.
    """
    load_plugins(plugins)
    torch.manual_seed(0)
    family = find_family(metadata.family)
    trained = family.model(family.config(**metadata.config))
    lean = rewrite(trained, None if dense else schedule_of(metadata))
    return open_module(lean, threads, device=device, half=half, compiled=compiled)


def _on_host(output: Any) -> dict[str, NDArray[np.generic]]:
    kept = {f"kept_{stage}": rows.cpu().numpy() for stage, rows in enumerate(output.tokens.kept)}
    return {name: value.float().cpu().numpy() for name, value in output.outputs.items()} | kept
