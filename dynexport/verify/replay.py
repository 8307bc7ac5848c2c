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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

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
from dynexport.verify.batches import Answers, Feed, Trial, run_batches

Number = TypeVar("Number", bound=np.generic)

AT_ONCE = 8
"""Images that PyTorch answers for in one go."""


@dataclass(frozen=True)
class FreeRun:
    """The candidate with its own choice, as a probe copy tells it, so that the product carries no
    extra output. A row for every image of every batch.

    outputs  of the probe, by name
    kept     per stage the positions kept, (R, K)
    ranked   per stage whether they are the best of its own scores, (R,)
    own      per stage its own scores, (R, positions), -inf where it did not rank a token
    mistold  stages, counted from 1, of which an output ``kept_...`` says something else
    """

    outputs: Answers
    kept: Kept
    ranked: tuple[NDArray[np.bool_], ...]
    own: tuple[NDArray[np.float64], ...]
    mistold: tuple[int, ...]


@dataclass(frozen=True)
class SharedChoice:
    """Candidate and PyTorch under one choice, a row for every image of every batch.

    expected, found  outputs by name, PyTorch's and the candidate's
    scores           per stage PyTorch's, (R, positions)
    own              per stage the candidate's
    kept             per stage what the candidate keeps of the tokens both have before it, (R, K)
    direct           rows (R,) where nothing was replayed, and the product itself is compared
    replayed_in      "pytorch", the candidate's choice; "candidate", PyTorch's; "" where none was
    """

    expected: Mapping[str, NDArray[np.float32]]
    found: Answers
    scores: tuple[NDArray[np.float32], ...]
    own: tuple[NDArray[np.float64], ...]
    kept: Kept
    direct: NDArray[np.bool_]
    replayed_in: str = ""


def run_freely(trial: Trial, product: Answers) -> FreeRun:
    """What the candidate keeps.

    Where the product has outputs ``kept_...``, they tell it of an engine, whose probe is another
    engine and may round otherwise; of any other candidate they are checked.
    """
    artifact, metadata = trial.artifact, trial.metadata
    probe = artifact.graph.clone()
    names = emit_choices(probe, metadata)
    with artifact.open_probe(probe) as runner:
        outputs = run_batches(runner, trial.images, trial.batches)
    rows = [outputs[name].astype(np.int64) for name, _ in names]
    scores = [outputs[name] for _, name in names]
    counts = [metadata.selection.leading + count for count in metadata.keep_counts]
    ranked = tuple(best_of_own(*row) for row in zip(rows, scores, counts, strict=True))
    kept = positions_of(rows, metadata)
    own = _own_scores(trial, names, outputs, kept)
    told = tuple(product[name].astype(np.int64) for name in kept_outputs(artifact.graph))
    if not told or [a.shape for a in told] != [b.shape for b in kept]:
        return FreeRun(outputs, kept, ranked, own, tuple(range(1, len(told) + 1)))
    if artifact.rebuilt:
        return FreeRun(outputs, told, ranked, own, ())
    pairs = enumerate(zip(told, kept, strict=True), start=1)
    mistold = tuple(stage for stage, (a, b) in pairs if not same_sets((a,), (b,)).all())
    return FreeRun(outputs, kept, ranked, own, mistold)


def _own_scores(
    trial: Trial, names: tuple[tuple[str, str], ...], outputs: Answers, before: Kept
) -> tuple[NDArray[np.float64], ...]:
    """Per stage the candidate's scores, (R, positions); ``names`` as `emit_choices` returns them,
    ``before``: what each stage left."""
    return tuple(
        scores_on_grid(outputs[name], before, stage, trial.metadata)
        for stage, (_, name) in enumerate(names)
    )


def share_choice(
    trial: Trial, product: Answers, free: FreeRun | None, original: Original | None, margin: float
) -> SharedChoice:
    """Bring both to one choice, the candidate's where PyTorch is at hand and can take it.

    A dense model, whose free run is None, has none to make.
    """
    bundle, every = trial.bundle, trial.every
    expected = {name: values[every] for name, values in bundle.outputs.items()}
    if free is None:
        return SharedChoice(expected, product, (), (), (), np.ones(len(every), dtype=bool))
    same = same_sets(tuple(kept[every] for kept in bundle.kept), free.kept)
    found, direct = {name: product[name] for name in bundle.outputs}, same
    if trial.artifact.rebuilt and not kept_outputs(trial.artifact.graph):
        # where a token stands at the cut, product and probe may choose otherwise: ask the probe
        settled = settled_choices(bundle.scores, trial.metadata.keep_counts, margin)
        direct = same & settled[every]
        found = {name: _merged(free.outputs[name], found[name], direct) for name in found}
    shared = SharedChoice(
        expected=expected,
        found=found,
        scores=tuple(scores[every] for scores in bundle.scores),
        own=free.own,
        kept=free.kept,
        direct=direct,
    )
    if same.all():
        return shared
    # a token kept twice, or one that was dropped before, cannot be told to PyTorch
    sound = (same | possible_choices(free.kept, trial.metadata)).all()
    if sound and original is not None and original.replay is not None:
        return _replay_in_pytorch(trial, shared, ~same, original.replay)
    return _replay_in_candidate(trial, shared, ~same)


def _replay_in_pytorch(
    trial: Trial,
    shared: SharedChoice,
    differ: NDArray[np.bool_],
    replay: Callable[[NDArray[np.float32], Kept], ReferenceBundle],
) -> SharedChoice:
    """PyTorch's answers under the candidate's choice, for the rows (R,) that differ."""
    rows = np.flatnonzero(differ)
    expected = {name: values.copy() for name, values in shared.expected.items()}
    scores = tuple(values.copy() for values in shared.scores)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        told = replay(trial.images[trial.every[some]], tuple(kept[some] for kept in shared.kept))
        for name, values in told.outputs.items():
            expected[name][some] = values
        for theirs, values in zip(scores, told.scores, strict=True):
            theirs[some] = values
    return replace(shared, expected=expected, scores=scores, replayed_in="pytorch")


def _replay_in_candidate(
    trial: Trial, shared: SharedChoice, differ: NDArray[np.bool_]
) -> SharedChoice:
    """The candidate's outputs and choices under PyTorch's choice, for the rows (R,) that differ."""
    metadata, kept = trial.metadata, trial.bundle.kept
    probe = trial.artifact.graph.clone()
    inputs = replay_selection(probe, metadata)
    names = emit_choices(probe, metadata)
    feed = feed_choice(trial, inputs)
    chosen = [batch for batch in trial.spans if differ[batch].any()]
    rows = np.concatenate([np.arange(batch.start, batch.stop) for batch in chosen])
    with trial.artifact.open_probe(probe) as runner:
        batches = [trial.every[batch] for batch in chosen]
        answers = run_batches(runner, trial.images, batches, feed)
    before = tuple(positions[trial.every[rows]] for positions in kept)
    choices = positions_of([answers[n].astype(np.int64) for n, _ in names], metadata, before)
    own = _own_scores(trial, names, answers, before)
    replaced = differ[rows]

    def put(values: NDArray[Number], new: NDArray[Number]) -> NDArray[Number]:
        merged = values.copy()
        merged[rows[replaced]] = new[replaced]
        return merged

    return replace(
        shared,
        found={name: put(values, answers[name]) for name, values in shared.found.items()},
        own=tuple(put(*pair) for pair in zip(shared.own, own, strict=True)),
        kept=tuple(put(*pair) for pair in zip(shared.kept, choices, strict=True)),
        replayed_in="candidate",
    )


def feed_choice(trial: Trial, inputs: tuple[tuple[str, int], ...]) -> Feed:
    """PyTorch's choice for a graph that takes it; ``inputs`` as `replay_selection` returns them."""
    names, counts = [name for name, _ in inputs], [count for _, count in inputs]
    rows = rows_of(trial.bundle.kept, counts, trial.metadata)
    return lambda batch: {name: chosen[batch] for name, chosen in zip(names, rows, strict=True)}


def _merged(
    values: NDArray[np.generic], others: NDArray[np.generic], where: NDArray[np.bool_]
) -> NDArray[np.generic]:
    """A row (R, ...) of ``others`` where ``where`` (R,) is true, else of ``values``."""
    return np.where(where.reshape(-1, *[1] * (values.ndim - 1)), others, values)
