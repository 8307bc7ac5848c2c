"""The process behind one benchmark candidate; see `dynexport.timing`.

Lines of JSON on stdin, one answer a line on stdout. The first names an opener and an input
shape; each later one asks for runs during so many seconds and is answered with their times.
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

from dynexport.backends import Runner
from dynexport.errors import DynexportError


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
        with getattr(importlib.import_module(module), function)(**order["arguments"]) as runner:
            runner.run(images)
            answer({"ready": True})
            for line in sys.stdin:
                answer({"times": _measure(runner, images, json.loads(line)["seconds"])})
    except DynexportError as error:
        answer({"error": str(error)})


def _measure(runner: Runner, images: NDArray[np.float32], seconds: float) -> list[float]:
    times: list[float] = []
    runner.run(images)  # not counted: what ran last left the caches to itself
    begin = perf_counter()
    while not times or perf_counter() - begin < seconds:
        start = perf_counter()
        runner.run(images)
        times.append(perf_counter() - start)
    return times
