"""How near a typed graph's answers come to the float32 graph's, on images held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration.running import Batches, run_batches
from dynexport.compare.numbers import (
    best_classes,
    cosines,
    divergences,
    not_numbers,
    relative_lengths,
    share_of,
)
from dynexport.compare.selection import overlap_of
from dynexport.errors import CalibrationError
from dynexport.formats.metadata import Metadata
from dynexport.graph.selection import add_kept_outputs, kept_outputs


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


class HeldOut:
    """The float32 graph's answers on images held out, to hold typed graphs against."""

    def __init__(self, model: ir.Model, metadata: Metadata, batches: Batches) -> None:
        self._metadata = metadata
        self._batches = list(batches)
        self.count = sum(map(len, self._batches))
        self._expected = self._answers(model)
        for name in metadata.outputs:
            for problem in not_numbers(f"{name} of the float32 graph", self._expected[name]):
                raise CalibrationError(f"{problem}, on images held out: give other images")

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


def _nearness(expected: NDArray[np.float32], found: NDArray[np.float32]) -> tuple[float, float]:
    """(agreement, divergence) of one output (N, classes) or (N, C, H, W)."""
    theirs, ours = expected.astype(np.float64), found.astype(np.float64)
    if not np.isfinite(ours).all():
        return 0.0, float("inf")
    if expected.ndim == 2:
        same = share_of(best_classes(ours), best_classes(theirs))
        return same, float(divergences(theirs, ours).mean())
    return float(cosines(theirs, ours).mean()), float(relative_lengths(theirs, ours).mean())
