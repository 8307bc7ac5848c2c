"""What a model keeps of images and what it takes them for, drawn.

From an ONNX file or an engine, with no PyTorch.

The line runs: `images` (which ones) -> `look` (what the model makes of them, its classes named by
`labels`) -> `strips` (where everything goes), with `drawing` (what is dropped, dimmed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynexport.artifact import Artifact, find_artifact
from dynexport.errors import InputError
from dynexport.files import existing_file, require_kept, require_writable, written_whole
from dynexport.formats.metadata import Metadata
from dynexport.progress import OnStep, silent
from dynexport.visualize.images import COUNT, files_of, find_images, names_of
from dynexport.visualize.labels import names_of_classes
from dynexport.visualize.look import TOP, look_at
from dynexport.visualize.strips import draw_strips, plan_layout

__all__ = ["Seen", "Visualization", "draw_strips", "look_at", "visualize_images"]

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Seen:
    """One image: its name, and the most probable classes with their probabilities, best first."""

    name: str
    classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Visualization:
    """What `visualize_images` wrote, and what it shows.

    output, size  the picture: its file, its width and height in pixels
    channels      of the images: of one or two the first is drawn, of others the first three
    keep_counts   tokens left after each stage, of a grid of ``num_tokens``; empty for a dense
                  model, of which only the images are drawn
    """

    model: str
    backend: str
    variant: str
    num_tokens: int
    keep_counts: tuple[int, ...]
    images: tuple[Seen, ...]
    output: str
    size: tuple[int, int]
    channels: int = 3


def visualize_images(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    engine: str | Path | None = None,
    trust: bool = False,
    backend: str | None = None,
    labels: str | Path | None = None,
    scores: bool = False,
    count: int | None = None,
    top: int = TOP,
    font: str | Path | None = None,
    on_step: OnStep = silent,
) -> Visualization:
    """Draw a strip for each image: itself, then each pruning stage with what it dropped dimmed.

    model            an ONNX file that `convert` wrote, run in ``backend``, or in ``engine``, which
                     was built from it; ``trust`` opens that whatever its sidecar says
    images           pictures, folders of them, and .npz as `dynexport.calibration` takes them; of
                     each folder and .npz ``count`` are drawn, evenly spread, by default 8
    output           the picture to write, .png or .jpg; by default the model's name with .png
    labels           a text file with the name of one class a line; by default ImageNet-1k's for
                     1000 classes, else numbers
    scores           draw what each stage ranked patches by as well
    top              how many classes to tell
    font             a TrueType or OpenType file, for names that are not in ASCII

    Raises DynexportError's subclasses; then nothing was written.
    """
    path = existing_file(model, "an ONNX file")
    target = _picture_to_write(Path(path.with_suffix(".png").name if output is None else output))
    if top < 0:
        raise InputError(f"`top` {top} asks for fewer than no classes: give 0 or more")
    artifact = find_artifact(path, backend, engine, trust)
    metadata = artifact.require_metadata()
    classes = names_of_classes(metadata, labels)[:top]
    sets = find_images([images] if isinstance(images, (str, Path)) else images, metadata, count)
    read = (path, engine, labels, font, *(file for chosen in sets for file in files_of(chosen)))
    require_kept(read, target)
    names = tuple(name for chosen in sets for name in names_of(chosen))
    plan_layout(metadata, scores=scores, classes=len(classes), font=font, images=len(names))
    pictures = np.concatenate([inputs for chosen in sets for inputs in chosen.batches(COUNT)])
    on_step(f"run {artifact.label} on {len(names)} image{'s' * (len(names) > 1)}")
    views = look_at(artifact, pictures, names=names, labels=labels, scores=scores, top=top)
    on_step(f"draw {target}")
    title = f"{Path(artifact.name).name} in {artifact.label}"
    sheet = draw_strips(views, metadata, title=title, font=font)
    with written_whole(target) as (draft,):
        sheet.save(draft, quality=92)
    seen = tuple(Seen(view.name, view.classes) for view in views)
    return _describe(artifact, metadata, seen, target, sheet.size)


def _describe(
    artifact: Artifact,
    metadata: Metadata,
    images: tuple[Seen, ...],
    target: Path,
    size: tuple[int, int],
) -> Visualization:
    return Visualization(
        model=artifact.name,
        backend=artifact.label,
        variant=metadata.variant,
        num_tokens=metadata.num_tokens,
        keep_counts=metadata.keep_counts,
        images=images,
        output=str(target),
        size=size,
        channels=metadata.preprocessing.channels,
    )


def _picture_to_write(target: Path) -> Path:
    """The path, if it can be a picture to write; else InputError."""
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"{target} ends in none of {', '.join(SUFFIXES)}: name a picture to write")
    require_writable(target)
    return target
