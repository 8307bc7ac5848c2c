"""Images through a runner, in batches of every size that is verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import Artifact
from dynexport.errors import ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.formats.reference import ReferenceBundle
from dynexport.runtimes import NO_INPUTS, Further, Runner

Outputs = dict[str, NDArray[np.generic]]
"""By name, a row for every image of every batch."""


Feed = Callable[[NDArray[np.int64]], Further]
"""The images in a batch (B,), by number -> what the graph is fed beside them."""


@dataclass(frozen=True, eq=False)
class VerifyPlan:
    """What is compared with what, and on which images.

    artifact, metadata  the candidate, and what its file says of itself
    bundle              PyTorch's answers
    images              float32 (P, C, H, W), those of the bundle
    batches             which of them go into each batch, as `plan_batches` has it
    """

    artifact: Artifact
    metadata: Metadata
    bundle: ReferenceBundle
    images: NDArray[np.float32]
    batches: tuple[NDArray[np.int64], ...]

    @cached_property
    def every(self) -> NDArray[np.int64]:
        """The image of every row (R,): every image of every batch, in turn."""
        return np.concatenate(self.batches)

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """The rows of each batch."""
        ends = np.cumsum([len(batch) for batch in self.batches]).tolist()
        return tuple(slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True))


def plan_verification(artifact: Artifact, bundle: ReferenceBundle) -> VerifyPlan:
    """The bundle's images, dealt out to batches of every size worth running."""
    metadata = artifact.require_metadata()
    images = bundle.inputs(metadata.preprocessing)
    batches = plan_batches(len(images), artifact.sizes, artifact.optimal)
    return VerifyPlan(artifact, metadata, bundle, images, batches)


def plan_batches(count: int, sizes: Sequence[int], optimal: int) -> tuple[NDArray[np.int64], ...]:
    """Which of ``count`` images go into each batch.

    First all of them at the optimal size, in order, the last batch filled up from the front; then
    two batches of every other size.
    """
    batches = _batches(count, optimal, None)
    for size in sizes:
        if size != optimal:
            batches += _batches(count, size, 2)
    return tuple(batches)


def _batches(count: int, size: int, most: int | None) -> list[NDArray[np.int64]]:
    starts = range(0, count, size)[:most]
    return [np.arange(start, start + size) % count for start in starts]


def feed_nothing(batch: NDArray[np.int64]) -> Further:
    """A `Feed` for a graph that takes images alone."""
    return NO_INPUTS


def run_batches(
    runner: Runner,
    images: NDArray[np.float32],
    batches: Sequence[NDArray[np.int64]],
    feed: Feed = feed_nothing,
) -> Outputs:
    """Outputs of all batches; ``feed`` tells what else a batch is fed."""
    parts: dict[str, list[NDArray[np.generic]]] = {}
    for rows in batches:
        given = np.ascontiguousarray(images[rows])
        for name, values in runner.run(given, feed(rows)).items():
            parts.setdefault(name, []).append(np.atleast_1d(values))
    return {name: np.concatenate(values) for name, values in parts.items()}


def require_outputs(outputs: Outputs, expected: Mapping[str, object], count: int) -> None:
    """ModelFileError unless all outputs that PyTorch has are there, for each of ``count`` rows."""
    missing = [name for name in expected if name not in outputs]
    if missing:
        raise ModelFileError(
            f"the model gives no output {missing[0]!r}, which PyTorch's answers hold: it gives "
            f"{', '.join(outputs)}; convert the checkpoint again"
        )
    for name, values in outputs.items():
        if len(values) != count:
            raise ModelFileError(
                f"the model gives {len(values)} rows of {name!r} for {count} images, expected one "
                "each: convert the checkpoint again"
            )
