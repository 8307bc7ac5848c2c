"""The comparison itself: the candidate against PyTorch's answers, from running to verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import Artifact, find_artifact
from dynexport.compare.numbers import (
    constant_failures,
    judge_agreement,
    judge_output,
    relative_lengths,
)
from dynexport.compare.original import Original
from dynexport.compare.selection import (
    StageOverlap,
    judge_selection,
    largest_inversion,
    overlap_of,
    selection_failures,
)
from dynexport.compare.tolerances import Limits, Tolerances
from dynexport.errors import InputError
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import ImageSet, open_images
from dynexport.precision import choose_tolerances
from dynexport.progress import OnStep, silent
from dynexport.verify.accuracy import measure_accuracy, require_measurable, share_failures
from dynexport.verify.batches import Trial, plan_batches, require_outputs, run_batches
from dynexport.verify.bisect import bisect
from dynexport.verify.outcome import Verification
from dynexport.verify.replay import FreeRun, SharedChoice, run_freely, share_choice


def verify(
    model: str | Path,
    reference: str | Path | None = None,
    *,
    backend: str | None = None,
    engine: str | Path | None = None,
    trust: bool = False,
    tolerance: float | None = None,
    tie_margin: float | None = None,
    min_agreement: float | None = None,
    data: str | Path | None = None,
    data_images: int | None = None,
    on_step: OnStep = silent,
) -> Verification:
    """Compare an ONNX file, or an engine that was built from it, with PyTorch's recorded answers
    (by default the bundle beside it); ``data``: labelled images to measure accuracy on."""
    model = Path(model)
    limits = Limits(tolerance, tie_margin, min_agreement)
    artifact = find_artifact(model, backend, engine, trust)
    tolerances = choose_tolerances(artifact.precision, limits)
    metadata = artifact.require_metadata()
    path = Path(reference) if reference else ReferenceBundle.path_beside(model)
    bundle = ReferenceBundle.load(path)
    bundle.require_made_for(metadata, path, model)
    images = open_data(data, data_images, artifact)
    return compare(artifact, bundle, str(path), tolerances, data=images, on_step=on_step)


def open_data(
    data: str | Path | None, data_images: int | None, artifact: Artifact
) -> ImageSet | None:
    """The images to measure accuracy on, if any, ready for a model."""
    if data is None:
        if data_images is not None:
            raise InputError("--data-images limits the images of --data: give both")
        return None
    steps = artifact.require_metadata().preprocessing
    return open_images(data, steps, count=data_images)


def compare(
    artifact: Artifact,
    bundle: ReferenceBundle,
    reference: str,
    tolerances: Tolerances | None = None,
    *,
    original: Original | None = None,
    data: ImageSet | None = None,
    find_departure: bool = False,
    on_step: OnStep = silent,
) -> Verification:
    """Compare an artifact with a bundle in hand; ``reference`` is what reports call the bundle.

    tolerances      by default those of the graph's precision
    original        PyTorch, where it is at hand: then the candidate's choice is replayed there
    data            images to measure accuracy on
    find_departure  name the first node that departs from ``original``
    """
    tolerances = tolerances or choose_tolerances(artifact.precision)
    trial = prepare_trial(artifact, bundle)
    if data is not None:
        require_measurable(data, trial.metadata, original)
    with artifact.open() as runner:
        product = run_batches(runner, trial.images, trial.batches)
    require_outputs(product, bundle.outputs, len(trial.every))
    free = run_freely(trial, product) if bundle.kept else None
    shared = share_choice(trial, product, free, original, tolerances.tie_margin)
    stages = _judge_stages(trial, free, shared, tolerances.tie_margin)
    judged = {
        name: judge_output(name, shared.expected[name], shared.found[name], tolerances)
        for name in bundle.outputs
    }
    count = len(trial.images)
    agreement = {
        name: judge_agreement(values, product[name][:count])
        for name, values in bundle.outputs.items()
    }
    accuracy = bisection = None
    if data is not None:
        on_step(f"run {data.count} images of {data.source}")
        accuracy = measure_accuracy(artifact, trial.metadata, data, original)
    if find_departure and original is not None:
        on_step("find the first node that departs")
        bisection = bisect(trial, original.export(), _worst_batch(trial, shared), tolerances)
    failures = (
        *constant_failures(artifact.graph),
        *selection_failures(stages, free.mistold if free else (), tolerances),
        *(failure for _, wrong in judged.values() for failure in wrong),
        *share_failures(agreement, accuracy, tolerances),
    )
    return Verification(
        model=artifact.name,
        reference=reference,
        backend=artifact.label,
        precision=artifact.precision,
        images=count - len(np.unique(trial.every[~shared.direct])),
        images_run=count,
        replayed_in=shared.replayed_in,
        batch_sizes=artifact.sizes,
        errors={name: errors for name, (errors, _) in judged.items()},
        agreement=agreement,
        stages=stages,
        tolerances=tolerances,
        accuracy=accuracy,
        bisection=bisection,
        passed=not failures,
        failures=failures,
    )


def prepare_trial(artifact: Artifact, bundle: ReferenceBundle) -> Trial:
    """The bundle's images, dealt out to batches of every size worth running."""
    metadata = artifact.require_metadata()
    images = bundle.inputs(metadata.preprocessing)
    batches = plan_batches(len(images), artifact.sizes, artifact.optimal)
    return Trial(artifact, metadata, bundle, images, batches)


def _judge_stages(
    trial: Trial, free: FreeRun | None, shared: SharedChoice, margin: float
) -> tuple[StageOverlap, ...]:
    if free is None:
        return ()
    every = trial.every
    stages = []
    for stage, (scores, own, kept) in enumerate(
        zip(shared.scores, shared.own, shared.kept, strict=True)
    ):
        overlap, ties, faults = judge_selection(scores, kept, margin)
        stages.append(
            StageOverlap(
                overlap=overlap,
                free_overlap=overlap_of(trial.bundle.kept[stage][every], free.kept[stage]),
                ties=ties,
                faults=faults,
                misranked=int((~free.ranked[stage]).sum()),
                inversion=largest_inversion(scores, own),
            )
        )
    return tuple(stages)


def _worst_batch(trial: Trial, shared: SharedChoice) -> NDArray[np.int64]:
    """The batch with the row whose outputs differ most; the first where shapes do."""
    worst = np.zeros(len(trial.every))
    for name, expected in shared.expected.items():
        found = shared.found[name]
        if found.shape == expected.shape:
            away = relative_lengths(expected, found)
            worst = np.maximum(worst, np.where(np.isnan(away), np.inf, away))
    row = int(worst.argmax())
    return next(
        batch
        for batch, span in zip(trial.batches, trial.spans, strict=True)
        if span.start <= row < span.stop
    )
