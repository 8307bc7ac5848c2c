"""Where a candidate departs from PyTorch: its values against those of a sound graph, node by node.

The sound graph is exported afresh from the checkpoint, in float32; names are given by module, so
the same value has the same name in both. Under PyTorch's choice, replayed in both, each value is
compared, and the first is named that differs although what it was computed from agrees.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.compare.numbers import relative_error
from dynexport.compare.tolerances import Tolerances
from dynexport.formats.onnx_file import Exported
from dynexport.graph.probe import with_outputs
from dynexport.graph.replay import replay_selection
from dynexport.runtimes import open_runner
from dynexport.verify.batches import Feed, VerifyPlan, feed_nothing, run_batches
from dynexport.verify.replay import feed_choice
from dynexport.verify.structure import FLOATS

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
    plan: VerifyPlan, sound: Exported, batch: NDArray[np.int64], tolerances: Tolerances
) -> Bisection:
    """Compare all values that the candidate and a sound graph share, on one batch of images (B,).

    They are fetched in as many runs as keep to `AT_ONCE`.
    """
    candidate, reference = plan.artifact.graph.clone(), sound.graph.clone()
    feeds: list[Feed] = [feed_nothing, feed_nothing]
    if plan.metadata.keep_counts:
        both = ((reference, sound.metadata), (candidate, plan.metadata))
        feeds = [feed_choice(plan, replay_selection(*pair)) for pair in both]
    smoothed = (plan.metadata.precision.get("int8") or {}).get("smoothed", ())
    producers = _common_values(reference, candidate, smoothed)
    errors: dict[str, float] = {}
    for names in _chunks(producers, len(batch)):
        with open_runner("onnxruntime", with_outputs(reference, names)) as runner:
            expected = run_batches(runner, plan.images, [batch], feeds[0])
        with plan.artifact.open_probe(with_outputs(candidate, names)) as runner:
            found = run_batches(runner, plan.images, [batch], feeds[1])
        for name in names:
            scores = _are_scores(producers[name])
            errors[name] = relative_error(expected[name], found[name], len(batch), scores=scores)
    return find_departure(producers, errors, tolerances.outputs)


def find_departure(
    producers: Mapping[str, ir.Node], errors: Mapping[str, float], tolerance: float
) -> Bisection:
    """The first value, in the order of the sound graph, that departs.

    It differs by more than ``tolerance`` and `JUMP` times what it was computed from; failing that,
    it is the first beyond the tolerance.

    producers: the node of each value compared, in order; errors: of each value.
    """
    differing: list[Departure] = []
    for name, node in producers.items():
        if not errors[name] <= tolerance:
            before = _error_before(node, errors)
            differing.append(Departure(str(node.name), node.op_type, name, errors[name], before))
    sudden = [one for one in differing if not one.error <= JUMP * one.inputs]
    first = next(iter(sudden or differing), None)
    place = 0 if first is None else differing.index(first) + 1
    following = tuple(differing[place : place + FOLLOWING])
    return Bisection(len(producers), tolerance, first, bool(sudden), following)


def _error_before(node: ir.Node, errors: Mapping[str, float]) -> float:
    """The largest error among the values that a node's outcome was computed from, `BACK` of them
    back. Constants and inputs have none."""
    worst, producers = 0.0, {node}
    for _ in range(BACK):
        given = [value for one in producers for value in one.inputs if value is not None]
        worst = max([worst, *(errors.get(str(value.name), 0.0) for value in given)])
        producers = {one for value in given if (one := value.producer()) is not None}
    return worst


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
    producers = {}
    for value in _float_values(sound):
        node = value.producer()
        if value.name in theirs and node is not None:
            producers[str(value.name)] = node
    return producers


def _float_values(model: ir.Model) -> Iterator[ir.Value]:
    for node in model.graph:
        for value in node.outputs:
            used = value.uses() or value.is_graph_output() or node.op_type == "TopK"
            if value.dtype in FLOATS and used:  # of a top-k only its rows are used
                yield value


def _chunks(producers: Mapping[str, ir.Node], batch: int) -> Iterator[list[str]]:
    """Names of values to fetch together, by their size for so many images."""
    chunk: list[str] = []
    taken = 0
    for name, node in producers.items():
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
