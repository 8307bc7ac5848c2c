"""A file or an engine beside what the user's own model answered: no checkpoint is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynexport.artifact import Artifact
from dynexport.compare.expected import Fit, judge_expected, squash
from dynexport.compare.tolerances import Tolerances
from dynexport.formats.expectation import Expectation
from dynexport.formats.metadata import Metadata
from dynexport.formats.reference import ReferenceBundle
from dynexport.tasks import LOGITS
from dynexport.verify.batches import VerifyPlan, plan_batches, require_outputs, run_batches
from dynexport.verify.replay import answer_freely


def open_expectation(path: str | Path, metadata: Metadata) -> Expectation:
    """What is expected of a model."""
    return Expectation.load(path, metadata.preprocessing, metadata.outputs)


def judge_candidate(
    artifact: Artifact, expectation: Expectation | None, tolerances: Tolerances
) -> Fit | None:
    """How an artifact fits what is expected; None where nothing is."""
    if expectation is None:
        return None
    metadata = artifact.require_metadata()
    images = metadata.preprocessing.to_input(expectation.images)
    count, size = len(images), artifact.optimal
    bundle = ReferenceBundle(expectation.images, expectation.outputs, (), (), {})
    plan = VerifyPlan(artifact, metadata, bundle, images, plan_batches(count, (size,), size))
    with artifact.open() as runner:
        outputs = run_batches(runner, images, plan.batches)
    require_outputs(outputs, expectation.outputs, len(plan.every))
    scores = answer_freely(plan)[2] if metadata.keep_counts else ()
    found = {name: outputs[name][:count].astype(np.float32) for name in expectation.outputs}
    if expectation.squashed:
        found[LOGITS] = squash(found[LOGITS], expectation.squashed)
    ranked = [values[:count] for values in scores]
    return judge_expected(expectation.outputs, found, ranked, metadata.keep_counts, tolerances)


def fit_failures(fit: Fit | None, expectation: Expectation | None) -> tuple[str, ...]:
    """What does not fit, a sentence each."""
    if fit is None or expectation is None:
        return ()
    if fit.passed and expectation.squashed:
        return (expectation.told_of_squashing,)
    return tuple(
        f"{expectation.path} expects other answers: {failure}; `checkpoint` has the cause named"
        for failure in fit.failures
    )
