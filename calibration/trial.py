"""Running a graph in ONNX Runtime on calibration images: what it sees, how near its answers are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration import Observation
from dynexport.compare.numbers import divergences
from dynexport.compare.selection import overlap_of
from dynexport.formats.metadata import Batch, Metadata
from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.probe import with_outputs
from dynexport.graph.selection import add_kept_outputs, kept_outputs
from dynexport.images import fill_batch
from dynexport.runtimes import open_runner

Batches = Iterable[NDArray[np.float32]]


def observe(model: ir.Model, names: Collection[str], batches: Batches) -> dict[str, Observation]:
    """What each of these values holds on the images; a batch at a time, so memory is bounded."""
    seen = {name: Observation(name) for name in names}
    for answers in run_batches(with_outputs(model, names), batches):
        for name, observation in seen.items():
            observation.add(answers[name])
    return seen


def run_batches(model: ir.Model, batches: Batches) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Outputs by name for each batch, whose size may be less than a static graph takes."""
    size = static_batch(model)
    with open_runner("onnxruntime", to_bytes(model)) as runner:
        for images in batches:
            count = len(images)
            if size is not None and count < size:
                images = fill_batch(images, size)
            answers = runner.run(images)
            yield {name: values[:count] for name, values in answers.items()}


def batch_size(metadata: Metadata) -> int:
    """Images at once: what the graph is made for."""
    return Batch.parse(metadata.batch).optimal


@dataclass(frozen=True)
class Nearness:
    """A typed graph's answers beside the float32 graph's, on the same images, each running free.

    agreement   share of images with the same best class; for maps, the mean cosine
    divergence  mean Kullback-Leibler divergence from the float32 graph's classes, nats; for maps,
                the mean relative error
    overlaps    per stage, the mean share of kept tokens both chose
    """

    agreement: float
    divergence: float
    overlaps: tuple[float, ...]


class Trial:
    """The float32 graph's answers on images held out, to hold typed graphs against."""

    def __init__(self, model: ir.Model, metadata: Metadata, batches: Batches) -> None:
        self._metadata = metadata
        self._batches = list(batches)
        self.count = sum(map(len, self._batches))
        self._expected = self._answers(model)

    def judge(self, model: ir.Model) -> Nearness:
        """How near a typed graph comes."""
        found = self._answers(model)
        per_output = [
            _nearness(self._expected[name], found[name]) for name in self._metadata.outputs
        ]
        agreement, divergence = np.mean(per_output, axis=0)
        kept = [name for name in found if name.startswith("kept_")]
        overlaps = tuple(overlap_of(self._expected[name], found[name]) for name in sorted(kept))
        return Nearness(float(agreement), float(divergence), overlaps)

    def _answers(self, model: ir.Model) -> dict[str, NDArray[np.float32]]:
        probe = model.clone()
        if self._metadata.keep_counts and not kept_outputs(probe):
            add_kept_outputs(probe, self._metadata)
        parts = list(run_batches(probe, self._batches))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def static_batch(model: ir.Model) -> int | None:
    """The only batch size a graph takes; None where it takes any."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    return shape[0] if isinstance(shape[0], int) else None


def _nearness(expected: NDArray[np.float32], found: NDArray[np.float32]) -> tuple[float, float]:
    """(agreement, divergence) of one output (N, classes) or (N, C, H, W)."""
    theirs = expected.astype(np.float64).reshape(len(expected), -1)
    ours = found.astype(np.float64).reshape(len(found), -1)
    if expected.ndim == 2:
        same = (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean()
        return float(same), float(divergences(theirs, ours).mean())
    lengths = np.linalg.norm(theirs, axis=1)
    tiny = np.finfo(np.float64).tiny
    cosines = (theirs * ours).sum(axis=1) / np.maximum(lengths * np.linalg.norm(ours, axis=1), tiny)
    errors = np.linalg.norm(theirs - ours, axis=1) / np.maximum(lengths, tiny)
    return float(cosines.mean()), float(errors.mean())
