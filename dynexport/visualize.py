"""What a model keeps of images and what it takes them for, drawn: from an ONNX file or an engine,
with no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.calibration import ImageSet, Preprocessing, open_images
from dynexport.calibration.folder import ImageFolder
from dynexport.drawing import View
from dynexport.errors import InputError, ModelFileError
from dynexport.files import existing_file, require_kept, require_writable, written_whole
from dynexport.graph.replay import NOWHERE, emit_choices, positions_of, scores_on_grid
from dynexport.graph.selection import kept_outputs
from dynexport.labels import name_classes
from dynexport.metadata import Metadata
from dynexport.onnxfile import read_metadata
from dynexport.progress import OnStep, silent
from dynexport.strips import draw_strips, plan_layout
from dynexport.subject import Subject, find_subject
from dynexport.verify.batches import Answers, plan_batches, run_batches

SUFFIXES = (".png", ".jpg", ".jpeg")

COUNT = 8
"""Images of a folder or an .npz that are drawn where nobody says how many."""

TOP = 3
"""Classes told of each image."""


@dataclass(frozen=True)
class Seen:
    """One image: its name, and the most probable classes with their probabilities, best first."""

    name: str
    classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Visualization:
    """What `visualize_images` wrote, and what it shows.

    output, size  the picture: its file, its width and height in pixels
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
    target = Path(path.with_suffix(".png").name if output is None else output)
    _require_picture(target)
    if top < 0:
        raise InputError(f"--top {top} asks for fewer than no classes: give 0 or more")
    subject = find_subject(path, backend, engine, trust)
    metadata = read_metadata(path, subject.graph)
    classes = names_of_classes(metadata, labels)[:top]
    sets = find_images([images] if isinstance(images, (str, Path)) else images, metadata, count)
    read = (path, engine, labels, font, *(file for chosen in sets for file in _files(chosen)))
    require_kept(read, target)
    names = tuple(name for chosen in sets for name in _names(chosen))
    plan_layout(metadata, scores=scores, classes=len(classes), font=font, images=len(names))
    pictures = np.concatenate([inputs for chosen in sets for inputs in chosen.batches(COUNT)])
    on_step(f"run {subject.backend} on {len(names)} image{'s' * (len(names) > 1)}")
    views = look_at(subject, pictures, names=names, labels=labels, scores=scores, top=top)
    on_step(f"draw {target}")
    title = f"{Path(subject.name).name} in {subject.backend}"
    sheet = draw_strips(views, metadata, title=title, font=font)
    with written_whole(target) as (draft,):
        sheet.save(draft, quality=92)
    return Visualization(
        model=subject.name,
        backend=subject.backend,
        variant=metadata.variant,
        num_tokens=metadata.num_tokens,
        keep_counts=metadata.keep_counts,
        images=tuple(Seen(view.name, view.classes) for view in views),
        output=str(target),
        size=sheet.size,
    )


def look_at(
    subject: Subject,
    images: NDArray[Any],
    *,
    names: Sequence[str] = (),
    labels: str | Path | None = None,
    scores: bool = False,
    top: int = TOP,
) -> tuple[View, ...]:
    """Run images and tell what was kept of each, and what it was taken for.

    images: pictures uint8 (B, H, W, 3) of the model's input size, any number of them, or float32
    (B, 3, H, W) already normalised; names: one each. The rest as `visualize_images` takes it.
    """
    metadata = read_metadata(subject.name, subject.graph)
    steps = metadata.preprocessing
    inputs = steps.to_input(images)
    pictures = images if images.dtype == np.uint8 else to_pictures(inputs, steps)
    classes = names_of_classes(metadata, labels)
    answers, kept, ranked = _ask(subject, metadata, inputs)
    best = _name_best(answers["logits"], classes, top) if classes else ((),) * len(inputs)
    return tuple(
        View(
            picture=picture,
            kept=tuple(positions[row] for positions in kept),
            scores=tuple(stage[row] for stage in ranked) if scores else (),
            classes=best[row],
            name=names[row] if names else "",
        )
        for row, picture in enumerate(pictures)
    )


def names_of_classes(metadata: Metadata, labels: str | Path | None) -> tuple[str, ...]:
    """A name for each class that a model tells apart; none for one without logits."""
    if "logits" in metadata.outputs:
        (classes,) = metadata.outputs["logits"]
        return name_classes(classes, labels)
    if labels is not None:
        raise InputError(
            "--labels names classes, and this model gives maps of features "
            f"({', '.join(metadata.outputs)}): leave --labels out"
        )
    return ()


def find_images(
    sources: Iterable[str | Path], metadata: Metadata, count: int | None = None
) -> tuple[ImageSet, ...]:
    """Pictures, and up to ``count`` of each folder and each .npz, in the order given; ImageError or
    InputError where there are none, or one cannot be used as far as its head tells."""
    steps, found = metadata.preprocessing, []
    for source in map(Path, sources):
        if source.suffix == ".npz" or source.is_dir():
            found.append(open_images(source, steps, count=COUNT if count is None else count))
            continue
        file = existing_file(source, "a picture, a folder of pictures or an .npz")
        steps.check(file)
        found.append(ImageSet(ImageFolder(file.parent, (file,), None), (0,), steps))
    if not found:
        raise InputError("no images were given: name pictures, folders of them, or an .npz")
    return tuple(found)


def to_pictures(inputs: NDArray[np.float32], steps: Preprocessing) -> NDArray[np.uint8]:
    """What is normalised, float32 (B, 3, H, W), to be looked at: uint8 (B, H, W, 3)."""
    mean, std = np.asarray(steps.mean), np.asarray(steps.std)
    scaled = inputs.transpose(0, 2, 3, 1) * std + mean
    return np.asarray(np.round(255.0 * np.clip(scaled, 0.0, 1.0)), dtype=np.uint8)


def _ask(
    subject: Subject, metadata: Metadata, inputs: NDArray[np.float32]
) -> tuple[Answers, tuple[NDArray[np.int64], ...], tuple[NDArray[np.float64], ...]]:
    """Outputs by name; per stage the positions kept (B, K), and the scores of patches (B, N), NaN
    where it did not rank one.

    A probe copy of the graph tells of the stages. Where that is compiled anew, and so may round
    otherwise, the product itself tells what it can.
    """
    few = len(inputs) < subject.optimal
    batches = plan_batches(len(inputs), (), subject.sizes[0] if few else subject.optimal)
    answers: Answers = {}
    if subject.rebuilt or not metadata.keep_counts:
        with subject.open() as runner:
            answers = run_batches(runner, inputs, batches)
    if not metadata.keep_counts:
        return _first(answers, len(inputs)), (), ()
    probe = subject.graph.clone()
    emitted = emit_choices(probe, metadata)
    with subject.open_probe(probe) as runner:
        told = _first(run_batches(runner, inputs, batches), len(inputs))
    answers = _first(told | answers, len(inputs))
    kept = positions_of([told[rows].astype(np.int64) for rows, _ in emitted], metadata)
    for stage, positions in enumerate(kept, start=1):
        if (positions == NOWHERE).any():
            raise ModelFileError(
                f"stage {stage} of {subject.name} keeps rows that are no tokens: "
                "`dynexport verify` tells what is wrong with it"
            )
    ranked = tuple(
        _patches(scores_on_grid(told[scores], kept, stage, metadata), metadata)
        for stage, (_, scores) in enumerate(emitted)
    )
    if own := kept_outputs(subject.graph):
        kept = tuple(answers[name].astype(np.int64) for name in own)
    return answers, kept, ranked


def _first(answers: Answers, count: int) -> Answers:
    """Without the rows that filled up the last batch."""
    return {name: values[:count] for name, values in answers.items()}


def _patches(scores: NDArray[np.float64], metadata: Metadata) -> NDArray[np.float64]:
    """Scores (B, positions) of the patches alone, (B, N), NaN for what is no finite number."""
    patches = scores[:, : metadata.num_tokens]
    return np.where(np.isfinite(patches), patches, np.nan)


def _name_best(
    logits: NDArray[Any], names: Sequence[str], top: int
) -> tuple[tuple[tuple[str, float], ...], ...]:
    """Of logits (B, classes) the ``top`` most probable classes of each image, best first."""
    exact = logits.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ModelFileError(
            "the model's logits hold values that are no numbers: `dynexport verify` tells more"
        )
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    return tuple(
        tuple((names[place], float(row[place])) for place in best)
        for row, best in zip(shares, order, strict=True)
    )


def _require_picture(target: Path) -> None:
    """InputError unless ``target`` can be a picture to write."""
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"{target} ends in none of {', '.join(SUFFIXES)}: name a picture to write")
    require_writable(target)


def _files(chosen: ImageSet) -> tuple[Path, ...]:
    """The files that images are read from."""
    if isinstance(chosen.images, ImageFolder):
        return tuple(chosen.images.files[place] for place in chosen.places)
    return (chosen.source,)


def _names(chosen: ImageSet) -> tuple[str, ...]:
    """What to call each image: its path in its folder, or its place in an .npz."""
    if isinstance(chosen.images, ImageFolder):
        return tuple(str(file.relative_to(chosen.source)) for file in _files(chosen))
    return tuple(f"{chosen.source.name}, image {place}" for place in chosen.places)
