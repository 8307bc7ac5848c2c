"""What `dynexport sweep` makes of its options: a recipe, precisions, how times are measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynexport.cli.options import parse_numbers
from dynexport.errors import InputError

if TYPE_CHECKING:
    from dynexport.conversion import Recipe
    from dynexport.precision import Precision
    from dynexport.sweep import Rig


def make_recipe(
    checkpoint: Path,
    model: str | None,
    prune_at: str | None,
    num_heads: int | None,
    img_size: str | None,
    weights: str | None,
    align: int,
    data: Path | None,
    plugin: list[Path] | None,
    pictures: dict[str, Any],
) -> Recipe:
    """The checkpoint, and what it leaves open; ``pictures`` as `told_of_pictures` gives it."""
    from dynexport.conversion import Recipe

    return Recipe(
        checkpoint,
        model=model,
        prune_at=parse_numbers("--prune-at", prune_at),
        num_heads=num_heads,
        img_size=img_size,
        weights=weights,
        align=align,
        images=data,
        plugins=tuple(plugin or ()),
        **pictures,
    )


def only_one(recipe: Recipe, kinds: list[Precision], sizes: tuple[int, ...]) -> Recipe:
    """The recipe at its one precision and batch size; InputError where several were given."""
    if len(kinds) != 1 or len(sizes) != 1:
        raise InputError("a search is for one precision and one batch size: give one of each")
    return replace(recipe, precision=kinds[0], batch=sizes[0])


def make_rig(backend: str, threads: int | None, rounds: int, round_seconds: float) -> Rig:
    """How latencies are measured."""
    from dynexport.bench.timing import Plan
    from dynexport.sweep import Rig

    return Rig(backend, threads, Plan(rounds=rounds, round_seconds=round_seconds))


def make_precisions(text: str, calibration: Path | None, images: int) -> list[Precision]:
    """Precisions by name, with calibration images where they look at some."""
    from dynexport.precision import Precision, find_precision

    return [
        Precision(name)
        if find_precision(name).images == "none"
        else Precision(name, calibration_data=calibration, calibration_images=images)
        for name in text.replace(" ", "").split(",")
    ]
