"""Where a search tries schedules: each is converted, timed and judged once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.numbers import share_of
from dynexport.conversion import Recipe
from dynexport.images import ImageSet
from dynexport.progress import OnStep
from dynexport.sweep.descent import Point
from dynexport.sweep.inputs import Rig
from dynexport.sweep.measure import (
    Latency,
    Made,
    Quality,
    judge_file,
    make_file,
    time_file,
)


@dataclass(frozen=True, eq=False)
class SearchJob:
    """All that trying a schedule takes; dense: the dense model's classes, int64 (count,)."""

    recipe: Recipe
    rig: Rig
    images: ImageSet
    dense: NDArray[np.int64]
    on_step: OnStep
    on_warning: OnStep

    @property
    def dense_accuracy(self) -> float | None:
        """None without labels."""
        labels = self.images.labels
        return None if labels is None else share_of(self.dense, labels)


@dataclass(frozen=True)
class Workbench:
    """Converts a schedule, times and judges its file; each once."""

    make: Callable[[Point], Made]
    time: Callable[[Point], Latency]
    judge: Callable[[Point], Quality]


def open_workbench(job: SearchJob, folder: Path) -> Workbench:
    """A workbench that keeps its files in a folder."""

    @functools.cache
    def make(point: Point) -> Made:
        counts = "-".join(map(str, point.keep_counts))
        job.on_step(f"convert to {counts.replace('-', ', ')} tokens")
        output = folder / f"{counts}.onnx"
        recipe = dataclasses.replace(job.recipe, ratios=point.ratios, output=output)
        return make_file(recipe, job.on_warning)

    @functools.cache
    def time(point: Point) -> Latency:
        made = make(point)
        job.on_step(f"time it at batch {job.recipe.batch}")
        return time_file(made, job.rig)

    @functools.cache
    def judge(point: Point) -> Quality:
        made = make(point)
        job.on_step(f"classify {job.images.described}")
        return judge_file(made, job.rig.backend, job.images, job.dense)

    return Workbench(make, time, judge)
