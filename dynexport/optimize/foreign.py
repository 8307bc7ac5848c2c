"""An ONNX file somebody else wrote: what it takes, and whether a changed copy gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.compare.numbers import largest_error, not_numbers
from dynexport.compare.selection import tied_rows
from dynexport.compare.tolerances import Tolerances
from dynexport.errors import ModelFileError
from dynexport.formats.onnx_file import (
    is_large,
    read_model,
    require_valid,
    size_of_weights,
    to_bytes,
)
from dynexport.graph.patterns import nodes_of, sizes_of
from dynexport.images import Preprocessing, fill_batch, load_images
from dynexport.precision import precision_of
from dynexport.runtimes.onnxruntime import OnnxRuntimeRunner

IMAGES = 8
"""Images it is compared on, and as many arrays of random numbers."""

Answer = Mapping[str, NDArray[np.generic]]
"""What a graph gives for a batch, by name."""

Session = Callable[[Sequence[NDArray[np.float32]]], list[Answer]]
"""A graph opened: batches to answers."""


@dataclass(frozen=True)
class Choice:
    """A TopK: the values that hold what it ranks, (B, N), and the order it gives, (B, K)."""

    scores: str
    order: str


@dataclass(frozen=True)
class Comparison:
    """How far two graphs' answers lie apart.

    error   largest difference, relative to the largest value of its output (at least 1), on images
            ranked alike
    images  compared
    ties    of them, those on which two near-tied scores changed places, which says nothing of the
            outputs
    failed  why the changed one gave no answers
    """

    error: float
    images: int
    ties: int
    failed: str = ""

    def passes(self, limits: Tolerances) -> bool:
        """Whether the answers agree, on more than half of the images without a tie."""
        return self.error <= limits.outputs and 2 * self.ties < self.images


def read_foreign(path: Path) -> ir.Model:
    """Load and check an ONNX file; ModelFileError if it is none, or one no runtime can take."""
    model = read_model(path)
    if is_large(model):
        size = size_of_weights(model) / 2**30
        raise ModelFileError(
            f"{path} holds {size:.1f} GiB of weights: files up to 2 GiB are optimized"
        )
    try:
        require_valid(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path} is no valid ONNX file: {error}; export it again") from None
    return model


def make_batches(model: ir.Model, source: Path | None) -> list[NDArray[np.float32]]:
    """Images and random numbers as a graph takes them, float32 (B, C, H, W).

    Batches are of its size, or of 1 and 3 where that is open.

    source: folder of images or .npz; by default synthetic ones.
    """
    sizes = sizes_of(next(v for v in model.graph.inputs if not v.is_initializer())) or []
    batch, channels, height, width = sizes
    assert isinstance(channels, int)
    assert isinstance(height, int)
    assert isinstance(width, int)
    steps = Preprocessing.for_size((height, width))
    images = steps.to_input(load_images(source, IMAGES, steps))[:, :channels]
    noise = np.random.default_rng(0).normal(0, 1, (IMAGES, channels, height, width))
    if isinstance(batch, int):
        given = np.concatenate([images, noise.astype(np.float32)])
        parts = [given[start : start + batch] for start in range(0, len(given), batch)]
        return [fill_batch(part, batch) for part in parts]
    halves = (images, noise.astype(np.float32))
    cut = [half[part] for half in halves for part in (slice(0, 1), slice(1, 4))]
    return [part for part in cut if len(part)]


def find_choices(model: ir.Model) -> tuple[Choice, ...]:
    """What a graph ranks, in order: every TopK of matrices whose order is read."""
    return tuple(
        Choice(str(node.inputs[0].name), str(node.outputs[1].name))
        for node in nodes_of(model, "TopK")
        if node.inputs[0] is not None
        and node.outputs[1].uses()
        and len(sizes_of(node.inputs[0]) or ()) == 2
        and node.attributes.get_int("axis", -1) in (1, -1)
    )


@contextmanager
def session_of(
    model: ir.Model, further: Sequence[str] = (), *, as_written: bool = False
) -> Iterator[Session]:
    """A graph opened in ONNX Runtime, which gives further values by name where it has them.

    as_written: nothing is joined or folded for it.
    """
    content, names = _probe_of(model, further)
    with OnnxRuntimeRunner(content, as_written=as_written) as runner:

        def run(batches: Sequence[NDArray[np.float32]]) -> list[Answer]:
            told = [runner.run(images) for images in batches]
            return [{name: array for name, array in one.items() if name in names} for one in told]

        yield run


def _probe_of(model: ir.Model, further: Sequence[str]) -> tuple[bytes, set[str]]:
    """The file of a graph that takes ``images`` and gives further values, and names of all given.

    The graph is changed for as long as it is written, since copies of large ones take time.
    """
    outputs = model.graph.outputs
    fed = next(value for value in model.graph.inputs if not value.is_initializer())
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    added = [values[name] for name in sorted(set(further)) if name in values]
    added = [value for value in added if value not in outputs]
    given, taken = fed.name, values.get("images")
    try:
        outputs.extend(added)
        if taken is not None and fed is not taken:
            taken.name = "images/computed"
        fed.name = "images"
        return to_bytes(model), {str(value.name) for value in outputs}
    finally:
        fed.name = given
        if taken is not None:
            taken.name = "images"
        for value in added:
            outputs.remove(value)


def answers_of(
    model: ir.Model,
    batches: Sequence[NDArray[np.float32]],
    further: Sequence[str] = (),
    *,
    as_written: bool = False,
) -> list[Answer]:
    """What a graph gives, batch after batch, see `session_of`."""
    with session_of(model, further, as_written=as_written) as run:
        return run(batches)


def make_comparison(
    model: ir.Model, batches: Sequence[NDArray[np.float32]], limits: Tolerances
) -> tuple[Callable[[ir.Model], Comparison], str]:
    """A function that compares a changed copy of a graph with the graph.

    The graph's answers are asked for once; in float32 as it is written, in other precisions as it
    is run, since there a runtime rounds otherwise. Returned beside it: why nothing can be compared
    with them, "" where it can.
    """
    choices = find_choices(model)
    outputs = [str(value.name) for value in model.graph.outputs]
    names = [name for choice in choices for name in (choice.scores, choice.order)]
    expected = answers_of(model, batches, names, as_written=precision_of(model) == "fp32")
    unsound = (
        problem
        for name in outputs
        for answers in expected
        if answers[name].dtype.kind == "f"
        for problem in not_numbers(f"it cannot be compared: its {name}", answers[name])
    )

    def compare(changed: ir.Model) -> Comparison:
        try:
            found = answers_of(changed, batches, [choice.order for choice in choices])
        except ModelFileError as error:
            return Comparison(float("inf"), sum(map(len, batches)), 0, str(error))
        errors, ties, images = [0.0], 0, 0
        for fed, want, got in zip(batches, expected, found, strict=True):
            alike = np.ones(len(fed), dtype=bool)
            if _error(want, got, outputs, alike):
                alike = ~_tied(want, got, choices, len(fed), limits.tie_margin)
            images += len(fed)
            ties += int((~alike).sum())
            errors.append(_error(want, got, outputs, alike))
        return Comparison(max(errors), images, ties)

    return compare, next(unsound, "")


def _error(
    want: Mapping[str, NDArray[np.generic]],
    got: Mapping[str, NDArray[np.generic]],
    outputs: Sequence[str],
    alike: NDArray[np.bool_],
) -> float:
    """The largest error over all outputs, on the images (B,) ranked alike where they are told
    apart."""
    worst = 0.0
    for name in outputs:
        first, second = np.asarray(want[name]), np.asarray(got[name])
        if first.shape == second.shape and first.ndim and len(first) == len(alike):
            first, second = first[alike], second[alike]
        worst = max(worst, largest_error(first, second))
    return worst


def _tied(
    want: Mapping[str, NDArray[np.generic]],
    got: Mapping[str, NDArray[np.generic]],
    choices: Sequence[Choice],
    count: int,
    margin: float,
) -> NDArray[np.bool_]:
    """Images (B,), ``count`` of them, whose rows a graph first orders otherwise where scores lie
    within rounding; of choices that both tell of."""
    scores, theirs, ours = [], [], []
    for choice in choices:
        if choice.order not in got or choice.order not in want:
            continue
        second = np.asarray(got[choice.order]).astype(np.int64)
        first = np.asarray(want[choice.order]).astype(np.int64)[:, : second.shape[1]]
        if first.shape == second.shape:
            scores.append(np.asarray(want[choice.scores]))
            theirs.append(first)
            ours.append(second)
    if not scores:
        return np.zeros(count, dtype=bool)
    return tied_rows(scores, theirs, ours, margin)
