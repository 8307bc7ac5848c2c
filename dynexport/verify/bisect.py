"""Where a candidate departs from PyTorch: its values against those of a sound graph, node by node.

The sound graph is exported afresh from the checkpoint, in float32; names are given by module, so
the same value has the same name in both. Under PyTorch's choice, replayed in both, each value is
compared, and the first is named that differs although what it was computed from agrees.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.compare.numbers import FLOATS, relative_lengths
from dynexport.compare.selection import PINNED
from dynexport.compare.tolerances import Tolerances
from dynexport.formats.onnx_file import Exported, to_bytes
from dynexport.graph.probe import with_outputs
from dynexport.graph.replay import replay_selection
from dynexport.runtimes import open_runner
from dynexport.verify.batches import Feed, Trial, feed_nothing, run_batches
from dynexport.verify.replay import feed_choice

JUMP = 3.0
"""A node departs where it multiplies the error of what it is given by more: sound ones pass it on
or add their rounding."""

BACK = 4
"""How many nodes. A mask of large numbers, added to the scores of an attention, hides their error
from the Softmax that comes next; this reaches behind it."""

FOLLOWING = 3
"""How many of the values after it are told as well."""

AT_ONCE = 256 << 20
"""Bytes of values fetched in one run, at most, unless one alone is larger."""


@dataclass(frozen=True)
class Departure:
    """A value that differs: the node that gives it, its operator, the value's name.

    error   length of the difference relative to that of the sound value, the worst image's;
            infinite where shapes differ or a number is missing
    inputs  the same of what it was computed from, the largest
    """

    node: str
    operator: str
    value: str
    error: float
    inputs: float


@dataclass(frozen=True)
class Bisection:
    """Where the candidate departs.

    compared   values that both graphs have
    tolerance  relative error from which a value differs
    first      the first node that departs; None if none does
    sudden     what it was computed from agrees; otherwise errors grew step by step up to it
    following  the next values that differ
    """

    compared: int
    tolerance: float
    first: Departure | None
    sudden: bool
    following: tuple[Departure, ...]


def bisect(
    trial: Trial, sound: Exported, batch: NDArray[np.int64], tolerances: Tolerances
) -> Bisection:
    """Compare all values that the candidate and a sound graph share, on one batch of images (B,).

    They are fetched in as many runs as keep to `AT_ONCE`.
    """
    candidate, reference = trial.artifact.graph.clone(), sound.graph.clone()
    feeds: list[Feed] = [feed_nothing, feed_nothing]
    if trial.metadata.keep_counts:
        both = ((reference, sound.metadata), (candidate, trial.metadata))
        feeds = [feed_choice(trial, replay_selection(*pair)) for pair in both]
    smoothed = (trial.metadata.precision.get("int8") or {}).get("smoothed", ())
    makers = _common_values(reference, candidate, smoothed)
    errors: dict[str, float] = {}
    for names in _chunks(makers, len(batch)):
        with open_runner("onnxruntime", to_bytes(with_outputs(reference, names))) as runner:
            expected = run_batches(runner, trial.images, [batch], feeds[0])
        with trial.artifact.open_probe(with_outputs(candidate, names)) as runner:
            found = run_batches(runner, trial.images, [batch], feeds[1])
        for name in names:
            scores = _are_scores(makers[name])
            errors[name] = relative_error(expected[name], found[name], len(batch), scores=scores)
    return find_departure(makers, errors, tolerances.outputs)


def find_departure(
    makers: Mapping[str, ir.Node], errors: Mapping[str, float], tolerance: float
) -> Bisection:
    """The first value, in the order of the sound graph, that differs by more than ``tolerance``
    and `JUMP` times what it was computed from; failing that, the first beyond the tolerance.

    makers: the node of each value compared, in order; errors: of each value.
    """
    differing: list[Departure] = []
    for name, node in makers.items():
        if not errors[name] <= tolerance:
            before = _error_before(node, errors)
            differing.append(Departure(str(node.name), node.op_type, name, errors[name], before))
    sudden = [one for one in differing if not one.error <= JUMP * one.inputs]
    first = next(iter(sudden or differing), None)
    place = 0 if first is None else differing.index(first) + 1
    following = tuple(differing[place : place + FOLLOWING])
    return Bisection(len(makers), tolerance, first, bool(sudden), following)


def _error_before(node: ir.Node, errors: Mapping[str, float]) -> float:
    """The largest error among the values that a node's outcome was computed from, `BACK` of them
    back. Constants and inputs have none."""
    worst, makers = 0.0, {node}
    for _ in range(BACK):
        given = [value for maker in makers for value in maker.inputs if value is not None]
        worst = max([worst, *(errors.get(str(value.name), 0.0) for value in given)])
        makers = {maker for value in given if (maker := value.producer()) is not None}
    return worst


def relative_error(
    expected: NDArray[Any], found: NDArray[Any], batch: int, *, scores: bool = False
) -> float:
    """Length of the worst image's difference relative to that of its sound value.

    scores: what a Softmax takes. It makes factors of differences, so these count as they are where
    scores are below one: a row of small ones would show more rounding than the Softmax passes on.

    Infinite where shapes differ, or a number is missing or infinite on one side alone. Infinities,
    and scores that pin a class token above all others, must agree and are left out: beside them
    nothing else would show.
    """
    if expected.shape != found.shape:
        return float("inf")
    rows = batch if expected.ndim and expected.shape[0] % batch == 0 else 1
    theirs = expected.astype(np.float64).reshape(rows, -1)
    ours = found.astype(np.float64).reshape(rows, -1)
    plain = np.abs(theirs) < PINNED
    if not np.isclose(ours[~plain], theirs[~plain], rtol=0.01, equal_nan=True).all():
        return float("inf")
    theirs, ours = np.where(plain, theirs, 0.0), np.where(plain, ours, 0.0)
    if not np.isfinite(ours).all():
        return float("inf")
    least = math.sqrt(theirs.shape[1]) if scores else 0.0
    return float(relative_lengths(theirs, ours, least).max(initial=0.0))


def _are_scores(node: ir.Node) -> bool:
    """Whether what a node gives goes into a Softmax, at most a bias or mask on the way."""
    readers = list(node.outputs[0].consumers())
    if [reader.op_type for reader in readers] == ["Add"]:
        readers = list(readers[0].outputs[0].consumers())
    return [reader.op_type for reader in readers] == ["Softmax"]


def _common_values(
    sound: ir.Model, candidate: ir.Model, smoothed: Collection[str]
) -> dict[str, ir.Node]:
    """Floating-point values that nodes of both graphs give, but for those that quantisation
    rescaled on purpose, and the sound graph's node of each, in its order."""
    theirs = {value.name for value in _float_values(candidate)} - set(smoothed)
    makers = {}
    for value in _float_values(sound):
        node = value.producer()
        if value.name in theirs and node is not None:
            makers[str(value.name)] = node
    return makers


def _float_values(model: ir.Model) -> Iterator[ir.Value]:
    for node in model.graph:
        for value in node.outputs:
            used = value.uses() or value.is_graph_output() or node.op_type == "TopK"
            if value.dtype in FLOATS and used:  # of a top-k only its rows are used
                yield value


def _chunks(makers: Mapping[str, ir.Node], batch: int) -> Iterator[list[str]]:
    """Names of values to fetch together, by their size for so many images."""
    chunk: list[str] = []
    taken = 0
    for name, node in makers.items():
        (value,) = (value for value in node.outputs if value.name == name)
        sizes = [size if isinstance(size, int) else batch for size in value.shape or ()]
        size = 8 * math.prod(sizes)  # in two graphs
        if chunk and taken + size > AT_ONCE:
            yield chunk
            chunk, taken = [], 0
        chunk.append(name)
        taken += size
    if chunk:
        yield chunk
