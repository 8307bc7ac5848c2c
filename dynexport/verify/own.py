"""The file beside itself: what it answered when it was made, in ONNX Runtime.

int8 rounds so coarsely that PyTorch's answers leave room for faults. Its own answers leave little:
every runtime computes the same steps, and only a value between two of them may fall to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dynexport.artifact import Artifact
from dynexport.compare.answers import Answers, compare
from dynexport.compare.numbers import Errors
from dynexport.compare.selection import StageChoice
from dynexport.compare.tolerances import Tolerances
from dynexport.formats.reference import OwnAnswers, ReferenceBundle
from dynexport.verify.batches import Outputs, VerifyPlan, plan_batches, plan_verification
from dynexport.verify.replay import FreeRun, answer_freely, share_choice

WHOSE = "its own"


@dataclass(frozen=True)
class Repetition:
    """A file beside the answers it gave when it was made, under one choice of tokens.

    errors  by the output's name; stages: the choice at each
    """

    errors: dict[str, Errors]
    stages: tuple[StageChoice, ...]
    failures: tuple[str, ...]


def record_own(artifact: Artifact, bundle: ReferenceBundle) -> OwnAnswers:
    """What a file answers to the bundle's images, at the batch size it was made for."""
    plan = _as_recorded(plan_verification(artifact, bundle))
    count = len(plan.images)
    outputs, kept, scores = answer_freely(plan)
    return OwnAnswers(
        outputs={name: outputs[name][:count].astype(np.float32) for name in bundle.outputs},
        kept=tuple(np.sort(positions[:count], axis=1) for positions in kept),
        scores=tuple(values[:count].astype(np.float32) for values in scores),
        precision=OwnAnswers.digest_of(plan.metadata),
    )


def compare_with_own(
    plan: VerifyPlan, outputs: Outputs, free: FreeRun | None, tolerances: Tolerances | None
) -> Repetition | None:
    """A file, whose free run is known, beside its own answers; None where none are recorded.

    In the batches that they were recorded in, which come first.
    """
    recorded = plan.bundle.of_file(plan.metadata)
    if recorded is None or tolerances is None:
        return None
    own = replace(_as_recorded(plan), bundle=recorded)
    rows = slice(len(own.every))
    if free is not None:
        free = replace(
            free,
            outputs={name: values[rows] for name, values in free.outputs.items()},
            kept=tuple(positions[rows] for positions in free.kept),
            own=tuple(scores[rows] for scores in free.own),
        )
    same_batches = {name: values[rows] for name, values in outputs.items()}
    shared = share_choice(own, same_batches, free, None, tolerances.tie_margin)
    theirs, ours = (_first(answers, len(plan.images)) for answers in (shared.theirs, shared.ours))
    found = compare(theirs, ours, tolerances, WHOSE)
    failures = tuple(f"{failure}, beside its own when it was made" for failure in found.failures)
    return Repetition(found.errors, found.stages, failures)


def _as_recorded(plan: VerifyPlan) -> VerifyPlan:
    """The first batches, of the size it was made for: int8-dynamic rounds by what is in a batch."""
    size = plan.artifact.optimal
    return replace(plan, batches=plan_batches(len(plan.images), (size,), size))


def _first(answers: Answers, count: int) -> Answers:
    """Those for each image once: what fills up the last batch is in other company there."""
    return Answers(
        {name: values[:count] for name, values in answers.outputs.items()},
        tuple(positions[:count] for positions in answers.kept),
        tuple(scores[:count] for scores in answers.scores),
    )
