"""The command that makes what a search found."""

from __future__ import annotations

import shlex
from pathlib import Path

from dynexport.precision import Precision
from dynexport.sweep.inputs import Recipe


def write_command(
    recipe: Recipe,
    ratios: tuple[float, ...],
    precision: Precision,
    batch: int,
    data: str | Path | None,
) -> str:
    """The ``dynexport convert`` that makes the file, for a shell.

    Every option is told that is not as it is without being given.
    """
    usual = Precision()
    options: dict[str, object] = {
        "ratios": ",".join(map(str, ratios)),
        "batch": batch,
        "model": recipe.model,
        "prune-at": recipe.prune_at and ",".join(map(str, recipe.prune_at)),
        "num-heads": recipe.num_heads,
        "img-size": recipe.img_size,
        "weights": recipe.weights,
        "images": data,
        "calibration-data": precision.calibration_data,
        "seed": precision.seed,
        "fallback-to": precision.fallback_to,
    }
    settings: dict[str, tuple[object, object]] = {
        "precision": (precision.name, usual.name),
        "io-precision": (precision.io, usual.io),
        "calibration-images": (precision.calibration_images, usual.calibration_images),
        "calibration-method": (",".join(precision.methods), ",".join(usual.methods)),
        "target-agreement": (precision.target_agreement, usual.target_agreement),
    }
    options |= {name: value for name, (value, default) in settings.items() if value != default}
    words = ["dynexport", "convert", str(recipe.checkpoint)]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    for plugin in recipe.plugins:
        words += ["--plugin", str(plugin)]
    return shlex.join(words)
