"""Every setting of a conversion, as one value.

It is checked when it is made, varied with `dataclasses.replace`, and printed as a command.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynexport.errors import InputError, ScheduleError
from dynexport.formats.metadata import Batch
from dynexport.graph.fuse import require_target
from dynexport.graph.opset import require_opset
from dynexport.images import ImageSize
from dynexport.images.preprocessing import is_scale
from dynexport.precision import Precision
from dynexport.schedule import KeepSchedule, parse_ratios

ANY_SIZE, ONE_SIZE = "1:8:64", "8"
"""Batch sizes of a file unless asked: ONNX Runtime is as fast with a range, and TensorRT is not."""


@dataclass(frozen=True)
class Recipe:
    """What is converted, and to what.

    checkpoint     .pth, .pt, .tar or .safetensors
    ratio, ratios  keep ratio of the family's schedule, or one per stage; by default the ratio
                   the checkpoint was trained with. ``dense`` exports the twin that drops nothing
    align          keep a few tokens more, so that blocks compute a multiple of so many rows, the
                   class token's included; see `dynexport.schedule.align_counts`
    model, prune_at, num_heads, weights  settle what the checkpoint leaves open
    args           more of what its args might have said, each as "skip_lam=1"; values are numbers,
                   true or false, texts, or several with commas between
    expect         .npz of what the user's own model answered to a few images: a conversion that
                   does not give that is refused, and the likeliest cause named
    strict         refuse what would have to be assumed
    img_size       another image size than it was trained at, pixels: 224, or "224x448", the height
                   first; or, where tensors leave it open, that one
    mean, std      of each channel of pictures in training, on the scale from 0 to 1, or one for all
    crop_pct       share of the resized picture, a side, whose centre the model is given
    warp           pictures are stretched to the shape of the input
    task           what the model is for: "classify" (the default), "features" ...; see
                   `dynexport.tasks`
    batch          "8" (static) or "1:8:64" (dynamic: smallest, optimal, largest); by default
                   `ANY_SIZE`, or `ONE_SIZE` where it is for TensorRT, or in half precision
    images         folder of pictures or .npz for the reference bundle; without, calibration
                   images if there are any, else synthetic ones
    emit_kept      adds outputs kept_0 ... with the positions kept
    precision      of weights and activations, by name or with all it takes
    target         "any" runtime, or "tensorrt": standard operators alone
    engine         build an engine as well, to this file
    edition        of the TensorRT that builds it: "tensorrt", "tensorrt-rtx", or "auto" for what is
                   installed. Without ``engine`` it goes beside the ONNX file
    output         the .onnx to write; by default named after the checkpoint, in this folder
    plugins        files that define families of their own; their code runs

    InputError for settings that are not valid, or do not go together.
    """

    checkpoint: str | Path
    ratio: float | None = None
    ratios: str | tuple[float, ...] | None = None
    align: int = 1
    dense: bool = False
    model: str | None = None
    prune_at: tuple[int, ...] | None = None
    num_heads: int | None = None
    img_size: int | str | ImageSize | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    warp: bool = False
    task: str | None = None
    weights: str | None = None
    batch: str | int | None = None
    images: str | Path | None = None
    emit_kept: bool = False
    opset: int = 20
    precision: str | Precision = "fp32"
    target: str = "any"
    engine: str | Path | None = None
    edition: str | None = None
    output: str | Path | None = None
    plugins: tuple[str | Path, ...] = ()
    args: tuple[str, ...] = ()
    strict: bool = False
    expect: str | Path | None = None

    def __post_init__(self) -> None:
        if self.img_size is not None:
            object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        self.sizes()
        if self.dense and (self.ratio, self.ratios, self.align) != (None, None, 1):
            raise ScheduleError(
                "`dense` drops nothing, so it takes no `ratio`, `ratios` or `align`"
            )
        if self.ratio is not None and self.ratios is not None:
            raise ScheduleError("`ratio` and `ratios` were both given: give one of the two")
        self.stage_ratios()
        self.typing()
        self.told_args()
        _require_transform(self)
        require_target(self.target)
        require_opset(self.opset)

    def sizes(self) -> Batch:
        """The batch sizes the file takes."""
        if self.batch is not None:
            return Batch.parse(str(self.batch))
        built = (self.engine, self.edition) != (None, None)
        for_gpus = built or self.target == "tensorrt" or self.typing().kind.half is not None
        return Batch.parse(ONE_SIZE if for_gpus else ANY_SIZE)

    def told_args(self) -> dict[str, Any]:
        """What `args` says, by name."""
        return dict(map(_parse_arg, self.args))

    def typing(self) -> Precision:
        """The precision, with all it takes."""
        if isinstance(self.precision, Precision):
            return self.precision
        return Precision(self.precision)

    def stage_ratios(self) -> KeepSchedule | None:
        """The keep schedule, where a ratio is given for each stage."""
        if self.ratios is None:
            return None
        if isinstance(self.ratios, str):
            return dataclasses.replace(parse_ratios(self.ratios), align=self.align)
        return KeepSchedule(tuple(self.ratios), self.align)

    def to_command(self) -> str:
        """The ``dynexport convert`` that does it, for a shell.

        Every option is told that is not as it is without being given.
        """
        words = ["dynexport", "convert", str(self.checkpoint)]
        for name, value in self._settings():
            words += [f"--{name.replace('_', '-')}"] if value is True else _option(name, value)
        for name, values in (("plugin", self.plugins), ("arg", self.args)):
            words += [word for value in values for word in _option(name, value)]
        return shlex.join(words)

    def _settings(self) -> Iterator[tuple[str, Any]]:
        """Option -> value of all that are not at their default."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "precision":
                yield from _settings_of(self.typing())
            elif field.name not in ("checkpoint", "plugins", "args") and str(value) != str(
                field.default
            ):
                yield field.name, value


def _require_transform(recipe: Recipe) -> None:
    """InputError unless what is said of pictures makes sense."""
    for name, values in (("mean", recipe.mean), ("std", recipe.std)):
        if values is not None and not is_scale(name, values):
            raise InputError(
                f"`{name}` {', '.join(map(str, values))} is not between 0 and 1: pixels are taken "
                "from 0 to 1, so divide what is on the scale to 255"
            )
    if recipe.crop_pct is not None and not 0 < recipe.crop_pct <= 1:
        raise InputError(
            f"`crop_pct` is {recipe.crop_pct}: give the share of a picture's side that the crop "
            "leaves, as 0.875"
        )


def _parse_arg(text: str) -> tuple[str, Any]:
    """A name and its value of ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise InputError(f"{text!r} tells nothing: write NAME=VALUE, as in `args` skip_lam=1")
    parts = [_plain(part) for part in value.split(",")]
    return name, parts if len(parts) > 1 else parts[0]


def _plain(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text else value


TOLD_APART = ("checkpoint", "plugins", "args")
"""Fields that no single option tells."""

PRECISION_OPTIONS = {"name": "precision", "io": "io_precision", "methods": "calibration_method"}
"""Fields of a `Precision` that options call otherwise."""


def _settings_of(precision: Precision) -> Iterator[tuple[str, Any]]:
    usual = Precision()
    for field in dataclasses.fields(precision):
        value = getattr(precision, field.name)
        if value != getattr(usual, field.name):
            yield PRECISION_OPTIONS.get(field.name, field.name), value


def _option(name: str, value: Any) -> list[str]:
    listed = isinstance(value, tuple) and not isinstance(value, ImageSize)
    text = ",".join(map(str, value)) if listed else str(value)
    return [f"--{name.replace('_', '-')}", text]


def as_recipe(recipe: Recipe | str | Path, ratio: float | None = None) -> Recipe:
    """A recipe, or that of a checkpoint with nothing else said of it; with this ratio, if any."""
    recipe = recipe if isinstance(recipe, Recipe) else Recipe(recipe)
    return recipe if ratio is None else dataclasses.replace(recipe, ratio=ratio)
