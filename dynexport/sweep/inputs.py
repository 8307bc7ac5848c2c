"""What a sweep and a search are given: a checkpoint, images, and how latencies are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynexport.bench.timing import Plan
from dynexport.conversion import OpenedCheckpoint
from dynexport.errors import ImageError, InputError
from dynexport.formats.metadata import Batch
from dynexport.images import Preprocessing, open_images, synthetic_images
from dynexport.pytorch import require_convert_extras
from dynexport.runtimes import require_runtime

if TYPE_CHECKING:
    from dynexport.models import Config

SYNTHETIC = 64
"""Images made up where none are given."""


@dataclass(frozen=True)
class Recipe:
    """What `dynexport.conversion.convert` is told whatever the configuration; see there."""

    checkpoint: str | Path
    model: str | None = None
    prune_at: tuple[int, ...] | None = None
    num_heads: int | None = None
    img_size: int | None = None
    weights: str | None = None
    align: int = 1
    plugins: tuple[str | Path, ...] = ()


@dataclass(frozen=True)
class Rig:
    """How latencies are measured: in which runtime, on how many cores (None: its choice)."""

    backend: str = "onnxruntime"
    threads: int | None = None
    plan: Plan = field(default_factory=lambda: Plan(rounds=5))

    def __post_init__(self) -> None:
        require_runtime(self.backend)
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads were asked for: give at least 1")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images that models are judged on.

    source   how reports call them
    labels   the class of each, int64 (count,), where it is known
    digest   of what they hold; "" for images that are made up
    batches  the model's input in batches of a size, float32 (B, 3, H, W), the last one shorter
    """

    source: str
    count: int
    labels: NDArray[np.int64] | None
    digest: str
    batches: Callable[[int], Iterator[NDArray[np.float32]]]


def open_checkpoint(recipe: Recipe) -> OpenedCheckpoint:
    """Read a checkpoint, as a conversion will."""
    require_convert_extras()
    from dynexport.models import load_plugins
    from dynexport.pytorch.checkpoint import build_model, identify, load_checkpoint

    load_plugins(recipe.plugins)
    loaded = load_checkpoint(recipe.checkpoint, recipe.weights)
    family, config = identify(
        loaded, recipe.model, recipe.prune_at, recipe.num_heads, recipe.img_size
    )
    return OpenedCheckpoint(loaded, family, config, build_model(loaded, family, config))


def open_pictures(data: str | Path | None, count: int | None, config: Config) -> Pictures:
    """The images of a folder or an .npz, all or up to ``count`` evenly spread.

    Without one, as many synthetic ones. ImageError if a label is none of the model's.
    """
    steps = Preprocessing.for_size(config.img_size)
    if data is None:
        made = steps.to_input(synthetic_images(count or SYNTHETIC, config.img_size))

        def batches(size: int) -> Iterator[NDArray[np.float32]]:
            return (made[start : start + size] for start in range(0, len(made), size))

        return Pictures(f"{len(made)} synthetic images", len(made), None, "", batches)
    chosen = open_images(data, steps, count=count)
    labels, classes = chosen.labels, config.num_classes
    if labels is not None and not ((labels >= 0) & (labels < classes)).all():
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ImageError(
            f"{data} has label {wrong}, but the model knows {classes} classes, 0 to "
            f"{classes - 1}: give the images it was trained to classify"
        )
    named = f"{chosen.count:,} images of {chosen.source.name or chosen.source}"
    return Pictures(named, chosen.count, labels, chosen.digest, chosen.batches)


def require_batches(batches: Sequence[int]) -> tuple[int, ...]:
    """Batch sizes, ascending, each once; InputError unless there are some, all at least 1."""
    for batch in batches:
        Batch.parse(str(batch))
    if not batches:
        raise InputError("no batch size was given: give one, as in --batch 8")
    return tuple(sorted(set(batches)))
