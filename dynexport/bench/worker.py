"""The process behind one benchmark candidate; see `dynexport.bench.timing`.

Lines of JSON on stdin, one answer a line on stdout. The first names an opener and an input
shape; each later one asks for runs during so many seconds and is answered with their times, or
for the times of the layers over all runs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import DynexportError
from dynexport.runtimes import GpuRunner, LayerRunner, Runner


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not mix with the answers

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    order = json.loads(sys.stdin.readline())
    images = np.random.default_rng(0).standard_normal(order["shape"]).astype(np.float32)
    module, _, function = order["opener"].partition(":")
    try:
        profiled = bool(order["arguments"].get("profile"))
        with getattr(importlib.import_module(module), function)(**order["arguments"]) as runner:
            runner.run(images)
            answer({"ready": True})
            for line in sys.stdin:
                asked = json.loads(line)
                if "seconds" in asked:
                    answer(_measure(runner, images, asked["seconds"], not profiled))
                else:
                    answer({"layers": _layers(runner)})
    except DynexportError as error:
        answer({"error": str(error)})


def _measure(
    runner: Runner, images: NDArray[np.float32], seconds: float, on_gpu: bool
) -> dict[str, list[float]]:
    """Seconds of every run: in all, and where the runner can tell, of the GPU and to enqueue."""
    times: dict[str, list[float]] = {"total": []}
    runner.run(images)  # not counted: what ran last left the caches to itself
    begin = perf_counter()
    while not times["total"] or perf_counter() - begin < seconds:
        start = perf_counter()
        runner.run(images)
        times["total"].append(perf_counter() - start)
        if on_gpu and isinstance(runner, GpuRunner):
            gpu, enqueue = runner.measure()
            times.setdefault("gpu", []).append(gpu)
            times.setdefault("enqueue", []).append(enqueue)
    return times


def _layers(runner: Runner) -> dict[str, float]:
    if not isinstance(runner, LayerRunner):
        raise DynexportError("this runtime does not time its layers: leave out --profile")
    return dict(runner.layers())
