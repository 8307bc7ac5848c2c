"""What a sweep is to make, and what its folder must hold rows of: all that is known before it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynexport.conversion import Recipe, TrainedModel, open_checkpoint
from dynexport.errors import InputError
from dynexport.files import name_checkpoint, require_kept, require_writable
from dynexport.images import ImageSet, Preprocessing
from dynexport.precision import Precision
from dynexport.runtimes import find_runtime
from dynexport.runtimes.library import UNKNOWN
from dynexport.sweep.inputs import (
    Rig,
    of_one_batch,
    only_batch,
    open_judged,
    require_batches,
    require_variable,
)
from dynexport.sweep.journal import identified
from dynexport.sweep.ratios import parse_ratio_list
from dynexport.sweep.rows import FILES, Key

DENSE = "dense.npz"
"""In an output folder too: the dense model's classes."""


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """A sweep that can begin.

    kinds     precisions by name, settings their digests
    batches   ascending: a file is made and judged at the largest, whichever are missing
    keys      of the configurations, in the order of the rows
    """

    recipe: Recipe
    rig: Rig
    kinds: Mapping[str, Precision]
    settings: Mapping[str, str]
    batches: tuple[int, ...]
    trained: TrainedModel
    images: ImageSet
    folder: Path
    keys: tuple[Key, ...]


def plan_sweep(
    recipe: Recipe,
    rig: Rig,
    ratios: str | Sequence[float],
    precisions: Sequence[str | Precision] | None,
    batches: Sequence[int] | None,
    count: int | None,
    output: str | Path | None,
) -> SweepPlan:
    """Read all that `sweep_checkpoint` was given; DynexportError for what cannot be used."""
    require_variable(recipe)
    recipe = of_one_batch(recipe)
    values = parse_ratio_list(ratios)
    sizes = require_batches([only_batch(recipe)] if batches is None else batches)
    kinds = name_precisions([recipe.typing()] if precisions is None else precisions)
    trained = open_checkpoint(recipe)
    folder = Path(f"{name_checkpoint(recipe.checkpoint)}-sweep" if output is None else output)
    files = [folder / name for name in (*FILES, DENSE)]
    for file in files:
        require_writable(file)
    require_kept(
        (recipe.checkpoint, recipe.images, *(k.calibration_data for k in kinds.values())), *files
    )
    return SweepPlan(
        recipe=recipe,
        rig=rig,
        kinds=kinds,
        settings={name: _digest(kind, trained) for name, kind in kinds.items()},
        batches=sizes,
        trained=trained,
        images=open_judged(recipe, count, trained),
        folder=folder,
        keys=tuple((ratio, kind, size) for kind in kinds for size in sizes for ratio in values),
    )


def name_precisions(precisions: Sequence[str | Precision]) -> dict[str, Precision]:
    """Precisions by name, in the order given; InputError unless there are some, each once."""
    kinds = [kind if isinstance(kind, Precision) else Precision(kind) for kind in precisions]
    named = {kind.name: kind for kind in kinds}
    if not kinds or len(named) < len(kinds):
        raise InputError(
            f"precisions {', '.join(kind.name for kind in kinds) or 'none'} were given: give at "
            "least one, and each once"
        )
    return named


def describe_sweep(plan: SweepPlan) -> dict[str, Any]:
    """What a sweep is of: all that its rows depend on, but for their configuration."""
    rig, trained, images = plan.rig, plan.trained, plan.images
    packages = ("dynexport", "onnx", "onnxruntime", "torch")  # every file is made with these
    timed_in, *_ = find_runtime(rig.backend).library.module.split(".")
    config: Any = trained.config
    return {
        "checkpoint": identified(Path(plan.recipe.checkpoint).name, trained.checkpoint.sha256),
        "weights": trained.checkpoint.weights,
        "model": json.dumps({"family": trained.family.name, **dataclasses.asdict(config)}),
        "align": plan.recipe.align,
        "images": identified(
            images.described, images.described if images.synthetic else images.digest
        ),
        "largest batch": plan.batches[-1],
        "backend": rig.backend,
        "threads": rig.threads,
        "rounds": rig.plan.rounds,
        "seconds a round": rig.plan.round_seconds,
        "cores": os.cpu_count(),
        **{name: _version(name) for name in dict.fromkeys((*packages, timed_in))},
        **_unusual(plan.recipe),
        **_unusual_steps(trained),
    }


def _unusual_steps(trained: TrainedModel) -> dict[str, str]:
    """How pictures are prepared, where it is not as usual."""
    steps, config = trained.preprocessing, trained.config
    usual = Preprocessing.for_size(config.img_size, config.in_chans)
    return {} if steps == usual else {"preprocessing": json.dumps(dataclasses.asdict(steps))}


def _unusual(recipe: Recipe) -> dict[str, Any]:
    """What else of a recipe its rows depend on, where it is not as usual."""
    return {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name in ("emit_kept", "opset", "target")
        and getattr(recipe, field.name) != field.default
    }


def _version(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", UNKNOWN))


def _digest(kind: Precision, trained: TrainedModel) -> str:
    """Of a precision's settings, calibration images by what they hold; ImageError where there are
    too few."""
    images = kind.open_images(trained.preprocessing)
    told = {**dataclasses.asdict(kind), "calibration_data": images and images.digest}
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
