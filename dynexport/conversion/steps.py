"""The steps of a conversion that are more than one call, and the clock that times them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import onnx_artifact
from dynexport.compare.expected import Fit
from dynexport.compare.original import Original
from dynexport.conversion.inputs import Inputs, Targets, TrainedModel
from dynexport.conversion.recipe import Recipe
from dynexport.files import written_whole
from dynexport.formats.expectation import Expectation
from dynexport.formats.metadata import ExportSpec, as_json
from dynexport.formats.onnx_file import Exported, data_beside, is_large
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.counts import recount
from dynexport.graph.fuse import fuse_operators
from dynexport.images import ImageSet
from dynexport.precision import PrecisionReport, convert_precision
from dynexport.progress import OnProgress, OnStep
from dynexport.runtimes.tensorrt.limits import top_k_warnings
from dynexport.schedule import KeepSchedule
from dynexport.verify import Verification, verify_artifact
from dynexport.verify.own import record_own

if TYPE_CHECKING:
    from dynexport.models import SparseModel

PACKAGES = ("dynexport", "torch", "onnx", "onnxscript", "onnx-ir")
"""Whose versions a file tells: what made it."""


class Clock:
    """Times the steps of a command, and tells of each as it begins."""

    def __init__(self, on_step: OnStep) -> None:
        self.seconds: dict[str, float] = {}
        self.on_step = on_step

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self.on_step(step)
        start = perf_counter()
        yield
        self.seconds[step] = perf_counter() - start


def describe_export(
    recipe: Recipe,
    trained: TrainedModel,
    keep: KeepSchedule | None,
    outputs: Mapping[str, tuple[int, ...]],
) -> ExportSpec:
    """What is known of an export before its graph; ``outputs``: name -> shape for one image."""
    from dynexport.models import variant_name
    from dynexport.pytorch.rewrite import keep_counts

    config: Any = trained.config
    return ExportSpec(
        family=trained.family.name,
        variant=variant_name(trained.family, config),
        config=as_json(config),
        ratios=None if keep is None else keep.ratios,
        keep_counts=() if keep is None else keep_counts(trained.model, keep),
        num_tokens=config.num_tokens,
        grid=getattr(config, "grid", None),
        selection=trained.model.selection,
        batch=str(recipe.sizes()),
        outputs=dict(outputs),
        preprocessing=trained.preprocessing,
        checkpoint_sha256=trained.checkpoint.sha256,
        weights=trained.checkpoint.weights,
        precision=as_json(PrecisionReport("fp32")),
        target=recipe.target,
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        align=1 if keep is None else keep.align,
        assumed=tuple(map(str, trained.assumed)),
    )


def give_warnings(
    recipe: Recipe, trained: TrainedModel, spec: ExportSpec, on_warning: OnStep
) -> tuple[str, ...]:
    """What else the checkpoint holds, and what TensorRT is known to refuse; told, and returned."""
    warnings = (
        *_warn_of_others(recipe, trained),
        *top_k_warnings(spec.selection, spec.keep_counts, spec.num_tokens),
    )
    for warning in warnings:
        on_warning(warning)
    return warnings


def _warn_of_others(recipe: Recipe, trained: TrainedModel) -> Iterator[str]:
    """Where nobody said which of several sets of weights to take."""
    taken = trained.checkpoint.weights
    others = [place for place in trained.checkpoint.available if place != taken]
    if others and recipe.weights is None:
        yield (
            f"{recipe.checkpoint} holds weights under {taken}, which are taken, and under "
            f"{', '.join(others)}: `weights` takes others"
        )


def check_expected(
    recipe: Recipe,
    inputs: Inputs,
    inference: SparseModel,
    outputs: Mapping[str, tuple[int, ...]],
    clock: Clock,
) -> Fit | None:
    """How the inference form fits what the user's own model answered; None where nothing is told.

    VerificationError, with the likeliest cause, where it does not.
    """
    if recipe.expect is None:
        return None
    from dynexport.pytorch.expecting import Reading, require_expected

    trained, keep, _, steps, _ = inputs
    with clock("compare with what is expected"):
        expectation = Expectation.load(recipe.expect, steps, outputs)
        reading = Reading(trained.checkpoint, trained.family, trained.config, keep, steps)
        return require_expected(reading, expectation, inference, clock.on_step)


def type_export(
    exported: Exported,
    recipe: Recipe,
    images: ImageSet | None,
    pictures: NDArray[np.float32],
    on_progress: OnProgress,
) -> tuple[Exported, PrecisionReport]:
    """A float32 export in the recipe's precision, as `convert_precision` has it; counted anew."""
    graph, report = convert_precision(
        exported.graph, exported.metadata, recipe.typing(), images, pictures, on_progress
    )
    metadata = recount(graph, exported.metadata)
    metadata = dataclasses.replace(metadata, precision=as_json(report))
    return Exported(graph, metadata), report


def write_verified(
    exported: Exported, bundle: ReferenceBundle, targets: Targets, original: Original
) -> tuple[int, Verification]:
    """Write the ONNX file and its bundle, if it gives PyTorch's answers.

    Returns its bytes, and how it was verified. VerificationError if it does not; then nothing is
    written.
    """
    if exported.metadata.target == "any":
        fuse_operators(exported.graph)
    data = [data_beside(targets.onnx)] if is_large(exported.graph) else []
    with written_whole(targets.onnx, targets.reference, *data) as (onnx_draft, bundle_draft, *_):
        size = exported.write(onnx_draft)
        artifact = onnx_artifact(onnx_draft, exported.graph, exported.metadata)
        if exported.metadata.precision["rounding"] is not None:
            bundle = dataclasses.replace(bundle, own=record_own(artifact, bundle))
        bundle.save(bundle_draft)
        outcome = verify_artifact(artifact, bundle, str(targets.reference), original=original)
        outcome = dataclasses.replace(outcome, model=str(targets.onnx))
        outcome.require_passed()
    return size, outcome
