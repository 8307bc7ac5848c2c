"""The comparison itself: the candidate against PyTorch's answers, from running to verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import Artifact
from dynexport.compare.answers import Comparison, compare
from dynexport.compare.numbers import (
    Agreement,
    agreement_failures,
    judge_agreement,
    relative_lengths,
    usual_length,
)
from dynexport.compare.original import Original
from dynexport.compare.selection import overlap_of
from dynexport.compare.tolerances import AS_USUAL, Limits, Tolerances
from dynexport.formats.expectation import Expectation
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import ImageSet
from dynexport.precision import choose_tolerances, held_tolerances
from dynexport.progress import OnStep, silent
from dynexport.tasks import judged_by_class
from dynexport.verify.accuracy import measure_accuracy, require_measurable, share_failures
from dynexport.verify.batches import VerifyPlan, plan_verification, require_outputs
from dynexport.verify.bisect import bisect
from dynexport.verify.dead import dead_stages
from dynexport.verify.expected import fit_failures, judge_candidate
from dynexport.verify.outcome import StageOverlap, Verification
from dynexport.verify.own import Repetition, compare_with_own
from dynexport.verify.replay import (
    FreeRun,
    SharedChoice,
    free_failures,
    run_freely,
    share_choice,
)
from dynexport.verify.steadiness import run_twice, unsteady_outputs
from dynexport.verify.structure import structure_failures


@dataclass(frozen=True, eq=False)
class _Judged:
    """The candidate beside PyTorch: under one choice, and what a user gets."""

    shared: SharedChoice
    comparison: Comparison
    stages: tuple[StageOverlap, ...]
    agreement: dict[str, Agreement | None]
    own: Repetition | None
    failures: tuple[str, ...]


def tolerances_for(
    artifact: Artifact, bundle: ReferenceBundle, limits: Limits = AS_USUAL
) -> Tolerances:
    """Those of its precision; held to what it was measured at, on the images that this was on."""
    metadata = artifact.require_metadata()
    if bundle.of_file(metadata) is None:
        return choose_tolerances(artifact.precision, limits)
    return held_tolerances(artifact.precision, metadata, limits)


def verify_artifact(
    artifact: Artifact,
    bundle: ReferenceBundle,
    reference: str,
    tolerances: Tolerances | None = None,
    *,
    original: Original | None = None,
    data: ImageSet | None = None,
    expectation: Expectation | None = None,
    find_departure: bool = False,
    on_step: OnStep = silent,
) -> Verification:
    """Compare an artifact with a bundle in hand; ``reference`` is what reports call the bundle.

    tolerances      by default `tolerances_for` it
    original        PyTorch, where it is at hand: then the candidate's choice is replayed there
    data            images to measure accuracy on
    expectation     what the user's own model answered
    find_departure  name the first node that departs from ``original``
    """
    tolerances = tolerances or tolerances_for(artifact, bundle)
    plan = plan_verification(artifact, bundle)
    if data is not None:
        require_measurable(data, original, tolerances)
    judged = _judge(plan, original, tolerances)
    accuracy = bisection = None
    if data is not None:
        on_step(f"run {data.count} images of {data.source}")
        accuracy = measure_accuracy(artifact, data, original)
    if find_departure and original is not None:
        on_step("find the first node that departs")
        worst = _worst_batch(plan, judged.shared)
        bisection = bisect(plan, original.export(), worst, tolerances)
    fit = judge_candidate(artifact, expectation, tolerances)
    failures = (*judged.failures, *share_failures(judged.agreement, accuracy, tolerances))
    failures += fit_failures(fit, expectation)
    return Verification(
        model=artifact.name,
        reference=reference,
        backend=artifact.label,
        precision=artifact.precision,
        images=len(plan.images) - len(np.unique(plan.every[~judged.shared.direct])),
        images_run=len(plan.images),
        replayed_in=judged.shared.replayed_in,
        batch_sizes=artifact.sizes,
        errors=judged.comparison.errors,
        agreement=judged.agreement,
        stages=judged.stages,
        tolerances=tolerances,
        accuracy=accuracy,
        bisection=bisection,
        own=judged.own,
        expected=fit,
        passed=not failures,
        failures=failures,
    )


def _judge(plan: VerifyPlan, original: Original | None, tolerances: Tolerances) -> _Judged:
    """Run the candidate, freely and under one choice with PyTorch."""
    artifact, expected = plan.artifact, plan.bundle.outputs
    with artifact.open() as runner:
        outputs, again = run_twice(runner, plan)
    require_outputs(outputs, expected, len(plan.every))
    free = run_freely(plan, outputs) if plan.bundle.kept else None
    shared = share_choice(plan, outputs, free, original, tolerances.tie_margin)
    comparison = compare(shared.theirs, shared.ours, tolerances)
    agreement = {
        name: judge_agreement(
            values, outputs[name][: len(plan.images)], by_class=judged_by_class(name, expected)
        )
        for name, values in expected.items()
    }
    alone = (
        *structure_failures(artifact.graph, plan.metadata),
        *(free_failures(free) if free else ()),
        *unsteady_outputs({name: outputs[name] for name in expected}, again),
    )
    own = compare_with_own(plan, outputs, free, tolerances.own)
    failures = (*alone, *(dead_stages(plan, shared) if free else ()), *comparison.failures)
    failures += own.failures if own else ()
    if not failures:  # what failed explains it
        failures = sum((agreement_failures(*one) for one in agreement.items()), ())
    return _Judged(
        shared=shared,
        comparison=comparison,
        stages=_describe_stages(plan, free, comparison) if free else (),
        agreement=agreement,
        own=own,
        failures=failures,
    )


def _describe_stages(
    plan: VerifyPlan, free: FreeRun, comparison: Comparison
) -> tuple[StageOverlap, ...]:
    """Each stage under one choice, and with each going its own way."""
    return tuple(
        StageOverlap(
            overlap=choice.overlap,
            free_overlap=overlap_of(plan.bundle.kept[stage][plan.every], free.kept[stage]),
            ties=choice.ties,
            faults=choice.faults,
            misranked=int((~free.ranked[stage]).sum()),
            inversion=choice.inversion,
        )
        for stage, choice in enumerate(comparison.stages)
    )


def _worst_batch(plan: VerifyPlan, shared: SharedChoice) -> NDArray[np.int64]:
    """The batch with the row whose outputs differ most; the first where shapes do."""
    worst = np.zeros(len(plan.every))
    for name, expected in shared.theirs.outputs.items():
        found = shared.ours.outputs[name]
        if found.shape == expected.shape:
            away = relative_lengths(expected, found, usual_length(expected))
            worst = np.maximum(worst, np.where(np.isnan(away), np.inf, away))
    row = int(worst.argmax())
    return next(
        batch
        for batch, span in zip(plan.batches, plan.spans, strict=True)
        if span.start <= row < span.stop
    )
