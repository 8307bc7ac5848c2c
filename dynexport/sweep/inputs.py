"""What a sweep and a search are given: a recipe to vary, images, and how latencies are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from dynexport.bench.timing import Plan
from dynexport.conversion import Recipe, TrainedModel
from dynexport.conversion.recipe import ONE_SIZE
from dynexport.errors import InputError
from dynexport.formats.metadata import Batch
from dynexport.images import ImageSet, open_images
from dynexport.runtimes import require_runtime
from dynexport.tasks import find_task

CHOSEN = ("ratio", "ratios", "dense", "engine", "edition", "output")
"""What a sweep or a search chooses itself."""


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


def require_variable(recipe: Recipe) -> None:
    """InputError if a recipe settles what is to be tried, or gives no classes to judge."""
    for one in dataclasses.fields(recipe):
        if one.name in CHOSEN and getattr(recipe, one.name) != one.default:
            raise InputError(
                f"the recipe has `{one.name}` {getattr(recipe, one.name)}, which is chosen here: "
                "leave it out"
            )
    if not find_task(recipe.task).classes:
        raise InputError(
            f"models are judged by the classes they give, not for the task {recipe.task}: leave "
            "`task` out"
        )


def open_judged(recipe: Recipe, count: int | None, trained: TrainedModel) -> ImageSet:
    """The recipe's images, all or up to ``count`` evenly spread.

    Without any, as many synthetic ones. ImageError if a label is none of the model's.
    """
    images = open_images(recipe.images, trained.preprocessing, count=count)
    return images.labelled(trained.config.num_classes)


def require_batches(batches: Sequence[int]) -> tuple[int, ...]:
    """Batch sizes, ascending, each once; InputError unless there are some, all at least 1."""
    for batch in batches:
        Batch.parse(str(batch))
    if not batches:
        raise InputError("no batch size was given: give one, as in 8")
    return tuple(sorted(set(batches)))


def of_one_batch(recipe: Recipe) -> Recipe:
    """A recipe with a batch size: times are of one, also where a file is for any."""
    return recipe if recipe.batch is not None else dataclasses.replace(recipe, batch=ONE_SIZE)


def only_batch(recipe: Recipe) -> int:
    """The one batch size of a recipe; InputError if it is a range."""
    sizes = recipe.sizes()
    if sizes.dynamic:
        raise InputError(f"`batch` is {sizes}, a range: give one size, as in 8")
    return sizes.optimal
