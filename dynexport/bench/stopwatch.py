"""One candidate open in a process of its own, and timed there when asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import DynexportError
from dynexport.runtimes import GpuRunner, LayerRunner

Times = dict[str, list[float]]
"""Seconds of every run: "total", and where a runtime tells them apart "gpu" and "enqueue"."""


class TimedRunner(Protocol):
    """A `dynexport.runtimes.Runner` as far as timing goes: it is given images alone."""

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]: ...

    def __enter__(self) -> TimedRunner: ...

    def __exit__(self, *_: object) -> None: ...


class Openable(Protocol):
    """What can be timed: it pickles, and opens in another process. An `Artifact` is one."""

    def open(self, threads: int | None = None, profile: bool = False) -> TimedRunner:
        """Open it; ``threads``: cores of the CPU, ``profile``: time its layers."""
        ...


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    label    how reports call it
    model    opens it, in a process of its own
    threads  cores of the CPU, None for the runtime's choice; profile: time its layers
    """

    label: str
    model: Openable
    threads: int | None = None
    profile: bool = False


class Stopwatch:
    """A candidate and random images of a shape (B, C, H, W); open, it times runs."""

    def __init__(self, candidate: Candidate, shape: tuple[int, int, int, int]) -> None:
        self._candidate, self._shape = candidate, shape

    def __enter__(self) -> Stopwatch:
        normal = np.random.default_rng(0).standard_normal(self._shape)
        self._images = normal.astype(np.float32)
        with ExitStack() as stack:
            asked = self._candidate
            self._runner = stack.enter_context(asked.model.open(asked.threads, asked.profile))
            self._runner.run(self._images)
            self._owned = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    def measure(self, seconds: float) -> Times:
        """Seconds of every run, for about ``seconds``, at least one.

        In all, and where the runner can tell, of the GPU and to enqueue.
        """
        runner, images = self._runner, self._images
        times: Times = {"total": []}
        runner.run(images)  # not counted: what ran last left the caches to itself
        begin = perf_counter()
        while not times["total"] or perf_counter() - begin < seconds:
            start = perf_counter()
            runner.run(images)
            times["total"].append(perf_counter() - start)
            if isinstance(runner, GpuRunner) and not self._candidate.profile:
                gpu, enqueue = runner.measure()
                times.setdefault("gpu", []).append(gpu)
                times.setdefault("enqueue", []).append(enqueue)
        return times

    def layers(self) -> dict[str, float]:
        """Median milliseconds of each layer in a run."""
        if not isinstance(self._runner, LayerRunner):
            raise DynexportError("this runtime does not time its layers: leave out `profile`")
        return dict(self._runner.layers())
