"""Candidate and PyTorch brought to one choice, so that what is left is numeric error.

Where the candidate, running freely, keeps what PyTorch kept, they are there already. Elsewhere one
choice is replayed in the other:

- PyTorch at hand: the candidate's kept sets are replayed in PyTorch, and the candidate's own
  outputs compared;
- only recorded answers at hand: PyTorch's kept sets are replayed in a probe copy of the candidate
  (`dynexport.graph.replay`), and the probe's outputs compared.

Either way every image is compared, and every stage judged on tokens that both had before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.answers import Answers
from dynexport.compare.original import Kept, Original
from dynexport.compare.selection import best_of_own, possible_choices, same_sets, settled_choices
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.replay import (
    emit_choices,
    positions_of,
    replay_selection,
    rows_of,
    scores_on_grid,
)
from dynexport.graph.selection import kept_outputs
from dynexport.verify.batches import Feed, Outputs, VerifyPlan, run_batches
from dynexport.verify.steadiness import first_unsteady, run_twice

Number = TypeVar("Number", bound=np.generic)

AT_ONCE = 8
"""Images that PyTorch answers for in one go."""


@dataclass(frozen=True)
class FreeRun:
    """The candidate with its own choice, as a probe copy tells it.

    So the file carries no extra output. A row for every image of every batch.

    outputs  of the probe, by name
    kept     per stage the positions kept, (R, K)
    ranked   per stage whether they are the best of its own scores, (R,)
    own      per stage its own scores, (R, positions), -inf where it did not rank a token
    mistold  stages, counted from 1, of which an output ``kept_...`` says something else
    unsteady  the first stage, counted from 1, that chose otherwise when the same images were run
              again; None where none did
    """

    outputs: Outputs
    kept: Kept
    ranked: tuple[NDArray[np.bool_], ...]
    own: tuple[NDArray[np.float64], ...]
    mistold: tuple[int, ...]
    unsteady: int | None = None


@dataclass(frozen=True, eq=False)
class SharedChoice:
    """Candidate and PyTorch under one choice, a row for every image of every batch.

    theirs       PyTorch's answers; it does not say what it keeps, which its scores tell
    ours         the candidate's: what it keeps of the tokens that both have before each stage
    direct       rows (R,) where nothing was replayed, and the file's own outputs are compared
    replayed_in  "pytorch", the candidate's choice; "candidate", PyTorch's; "" where none was
    """

    theirs: Answers
    ours: Answers
    direct: NDArray[np.bool_]
    replayed_in: str = ""


def run_freely(plan: VerifyPlan, outputs: Outputs) -> FreeRun:
    """What the candidate keeps, whose own ``outputs`` are known.

    Where it has outputs ``kept_...``, they tell it of an engine, whose probe is another engine and
    may round otherwise; of any other candidate they are checked.
    """
    artifact, metadata = plan.artifact, plan.metadata
    probe = artifact.graph.clone()
    names = emit_choices(probe, metadata)
    with artifact.open_probe(probe) as runner:
        probed, again = run_twice(runner, plan)
    rows = [probed[name].astype(np.int64) for name, _ in names]
    scores = [probed[name] for _, name in names]
    counts = [metadata.selection.leading + count for count in metadata.keep_counts]
    ranked = tuple(best_of_own(*row) for row in zip(rows, scores, counts, strict=True))
    kept, own = _choices(plan, names, probed)
    unsteady = first_unsteady((kept, own), _choices(plan, names, again))
    emitted = tuple(outputs[name].astype(np.int64) for name in kept_outputs(artifact.graph))
    if artifact.rebuilt and _alike(emitted, kept):
        return FreeRun(probed, emitted, ranked, own, (), unsteady)
    return FreeRun(probed, kept, ranked, own, _mistold(emitted, kept), unsteady)


def answer_freely(plan: VerifyPlan) -> tuple[Outputs, Kept, tuple[NDArray[np.float64], ...]]:
    """The outputs of a probe copy, and per stage what it kept, and by which scores."""
    probe = plan.artifact.graph.clone()
    names = emit_choices(probe, plan.metadata)
    with plan.artifact.open_probe(probe) as runner:
        outputs = run_batches(runner, plan.images, plan.batches)
    return outputs, *_choices(plan, names, outputs)


def _choices(
    plan: VerifyPlan, names: tuple[tuple[str, str], ...], outputs: Outputs
) -> tuple[Kept, tuple[NDArray[np.float64], ...]]:
    """Per stage what a free run kept, (R, K), and by which scores, (R, positions)."""
    kept = positions_of([outputs[name].astype(np.int64) for name, _ in names], plan.metadata)
    return kept, _own_scores(plan, names, outputs, kept)


def _alike(emitted: Kept, kept: Kept) -> bool:
    """Whether outputs have the shapes of what is kept."""
    return [one.shape for one in emitted] == [one.shape for one in kept]


def _mistold(emitted: Kept, kept: Kept) -> tuple[int, ...]:
    """Stages, counted from 1, of which an output says something else than is kept."""
    if not _alike(emitted, kept):
        return tuple(range(1, len(emitted) + 1))
    pairs = enumerate(zip(emitted, kept, strict=True), start=1)
    return tuple(stage for stage, (a, b) in pairs if not same_sets((a,), (b,)).all())


def free_failures(free: FreeRun) -> tuple[str, ...]:
    """What is wrong with the candidate by itself, a sentence each."""
    misranked = [int((~ranked).sum()) for ranked in free.ranked]
    unsteady = () if free.unsteady is None else (free.unsteady,)
    return (
        *(f"stage {stage} chooses otherwise when the same images run again" for stage in unsteady),
        *(f"output kept_{stage - 1} is not what stage {stage} keeps" for stage in free.mistold),
        *(
            f"stage {stage} does not keep the best of its own scores ({times} times)"
            for stage, times in enumerate(misranked, start=1)
            if times
        ),
    )


def _own_scores(
    plan: VerifyPlan, names: tuple[tuple[str, str], ...], outputs: Outputs, before: Kept
) -> tuple[NDArray[np.float64], ...]:
    """Per stage the candidate's scores, (R, positions); ``names`` as `emit_choices` returns them,
    ``before``: what each stage left."""
    return tuple(
        scores_on_grid(outputs[name], before, stage, plan.metadata)
        for stage, (_, name) in enumerate(names)
    )


def share_choice(
    plan: VerifyPlan,
    outputs: Outputs,
    free: FreeRun | None,
    original: Original | None,
    margin: float,
) -> SharedChoice:
    """Bring both to one choice, the candidate's where PyTorch is at hand and can take it.

    A dense model, whose free run is None, has none to make.
    """
    bundle, every = plan.bundle, plan.every
    expected = {name: values[every] for name, values in bundle.outputs.items()}
    if free is None:
        ones = np.ones(len(every), dtype=bool)
        return SharedChoice(Answers(expected), Answers(outputs), ones)
    same = same_sets(tuple(kept[every] for kept in bundle.kept), free.kept)
    found, direct = {name: outputs[name] for name in bundle.outputs}, same
    if plan.artifact.rebuilt and not kept_outputs(plan.artifact.graph):
        # where a token stands at the cut, file and probe may choose otherwise: ask the probe
        settled = settled_choices(bundle.scores, plan.metadata.keep_counts, margin)
        direct = same & settled[every]
        found = {name: _merged(free.outputs[name], found[name], direct) for name in found}
    theirs = Answers(expected, scores=tuple(scores[every] for scores in bundle.scores))
    shared = SharedChoice(theirs, Answers(found, free.kept, free.own), direct)
    if same.all():
        return shared
    # a token kept twice, or one that was dropped before, cannot be told to PyTorch
    sound = (same | possible_choices(free.kept, plan.metadata)).all()
    if sound and original is not None and original.replay is not None:
        return _replay_in_pytorch(plan, shared, ~same, original.replay)
    return _replay_in_candidate(plan, shared, ~same)


def _replay_in_pytorch(
    plan: VerifyPlan,
    shared: SharedChoice,
    differ: NDArray[np.bool_],
    replay: Callable[[NDArray[np.float32], Kept], ReferenceBundle],
) -> SharedChoice:
    """PyTorch's answers under the candidate's choice, for the rows (R,) that differ."""
    rows = np.flatnonzero(differ)
    expected = {name: values.copy() for name, values in shared.theirs.outputs.items()}
    scores = tuple(values.copy() for values in shared.theirs.scores)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        kept = tuple(positions[some] for positions in shared.ours.kept)
        answers = replay(plan.images[plan.every[some]], kept)
        for name, values in answers.outputs.items():
            expected[name][some] = values
        for theirs, values in zip(scores, answers.scores, strict=True):
            theirs[some] = values
    return replace(shared, theirs=Answers(expected, scores=scores), replayed_in="pytorch")


def _replay_in_candidate(
    plan: VerifyPlan, shared: SharedChoice, differ: NDArray[np.bool_]
) -> SharedChoice:
    """The candidate's outputs and choices under PyTorch's choice, for the rows (R,) that differ."""
    chosen = [batch for batch in plan.spans if differ[batch].any()]
    rows = np.concatenate([np.arange(batch.start, batch.stop) for batch in chosen])
    answers = _answer_replayed(plan, [plan.every[batch] for batch in chosen])
    replaced, ours = differ[rows], shared.ours

    def put(values: NDArray[Number], new: NDArray[Number]) -> NDArray[Number]:
        merged = values.copy()
        merged[rows[replaced]] = new[replaced]
        return merged

    merged = Answers(
        outputs={name: put(values, answers.outputs[name]) for name, values in ours.outputs.items()},
        kept=tuple(put(*pair) for pair in zip(ours.kept, answers.kept, strict=True)),
        scores=tuple(put(*pair) for pair in zip(ours.scores, answers.scores, strict=True)),
    )
    return replace(shared, ours=merged, replayed_in="candidate")


def _answer_replayed(plan: VerifyPlan, batches: Sequence[NDArray[np.int64]]) -> Answers:
    """The candidate's answers for some batches, given PyTorch's choice at each stage before."""
    probe = plan.artifact.graph.clone()
    inputs = replay_selection(probe, plan.metadata)
    names = emit_choices(probe, plan.metadata)
    feed = feed_choice(plan, inputs)
    with plan.artifact.open_probe(probe) as runner:
        outputs = run_batches(runner, plan.images, batches, feed)
    before = tuple(positions[np.concatenate(batches)] for positions in plan.bundle.kept)
    rows = [outputs[name].astype(np.int64) for name, _ in names]
    kept = positions_of(rows, plan.metadata, before)
    return Answers(outputs, kept, _own_scores(plan, names, outputs, before))


def feed_choice(plan: VerifyPlan, inputs: tuple[tuple[str, int], ...]) -> Feed:
    """PyTorch's choice for a graph that takes it; ``inputs`` as `replay_selection` returns them."""
    names, counts = [name for name, _ in inputs], [count for _, count in inputs]
    rows = rows_of(plan.bundle.kept, counts, plan.metadata)
    return lambda batch: {name: chosen[batch] for name, chosen in zip(names, rows, strict=True)}


def _merged(
    values: NDArray[np.generic], others: NDArray[np.generic], where: NDArray[np.bool_]
) -> NDArray[np.generic]:
    """A row (R, ...) of ``others`` where ``where`` (R,) is true, else of ``values``."""
    return np.where(where.reshape(-1, *[1] * (values.ndim - 1)), others, values)
