"""Accuracy on images of the user's, where they have labels, and agreement with PyTorch on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import Artifact
from dynexport.compare.numbers import TOP, Agreement, best_classes, hits, not_numbers
from dynexport.compare.original import Original
from dynexport.compare.tolerances import Tolerances
from dynexport.errors import ImageError, InputError
from dynexport.images import ImageSet, fill_batch, open_images
from dynexport.tasks import LOGITS, describe_outputs

ROUNDING = 1e-9
"""A share that falls short by less does not: it is a quotient of two counts."""


@dataclass(frozen=True)
class Accuracy:
    """Candidate and PyTorch on labelled images, each with its own choice of tokens.

    source, images  where they are from, how many
    top1, top5      share of images given their class, and with it among the five best; None
                    without labels, top5 also with fewer than six classes
    pytorch_top1, pytorch_top5  the same of PyTorch; None where it is not at hand
    agreement       share of images that both give the same class; None where it is not at hand
    unsound         whose logits hold NaN or infinity, a sentence each
    told_by         what told the classes of folders
    """

    source: str
    images: int
    top1: float | None
    top5: float | None
    pytorch_top1: float | None
    pytorch_top5: float | None
    agreement: float | None
    unsound: tuple[str, ...] = ()
    told_by: str = ""

    @property
    def drop(self) -> float | None:
        """Points of accuracy lost against PyTorch."""
        if self.top1 is None or self.pytorch_top1 is None:
            return None
        return 100.0 * (self.pytorch_top1 - self.top1)


def open_data(
    data: str | Path | None, data_images: int | None, artifact: Artifact
) -> ImageSet | None:
    """The images to measure accuracy on, if any, ready for a model and labelled by its classes."""
    if data is None:
        if data_images is not None:
            raise InputError("`data_images` limits the images of `data`: give both")
        return None
    metadata = artifact.require_metadata()
    if LOGITS not in metadata.outputs:
        raise InputError(
            "accuracy is measured on logits, and this model gives "
            f"{describe_outputs(metadata.outputs)}: leave `data` out"
        )
    (classes,) = metadata.outputs[LOGITS]
    return open_images(data, metadata.preprocessing, count=data_images).labelled(classes)


def require_measurable(data: ImageSet, original: Original | None, tolerances: Tolerances) -> None:
    """InputError or ImageError unless all that is asked of these images can be told."""
    labels = data.labels
    if labels is None and original is None:
        raise ImageError(
            f"{data.source} holds no labels, and PyTorch is not at hand to agree with: give a "
            "folder with a folder for each class, an .npz with labels, or `checkpoint`"
        )
    if tolerances.min_agreement is not None and original is None:
        raise InputError(
            "`min_agreement` on the images of `data` compares with PyTorch: give `checkpoint` as "
            "well, or leave `data` out to judge the images of the bundle"
        )
    if tolerances.max_drop is not None and labels is None:
        raise ImageError(
            f"`max_drop` is of accuracy, and {data.source} holds no labels: give a folder with a "
            "folder for each class, or an .npz with labels"
        )


def measure_accuracy(artifact: Artifact, data: ImageSet, original: Original | None) -> Accuracy:
    """Run all images in batches of the optimal size, the last one filled up from its front."""
    size = artifact.optimal
    ours: list[NDArray[np.generic]] = []
    theirs: list[NDArray[np.float32]] = []
    with artifact.open() as runner:
        for images in data.batches(size):
            ours.append(runner.run(fill_batch(images, size))[LOGITS][: len(images)])
            if original is not None:
                theirs.append(original.answer(images).outputs[LOGITS])
    logits, labels = np.concatenate(ours).astype(np.float64), data.labels
    expected = np.concatenate(theirs) if theirs else None
    return Accuracy(
        source=str(data.source),
        images=data.count,
        top1=_share(logits, labels, 1),
        top5=_share(logits, labels, TOP),
        pytorch_top1=_share(expected, labels, 1),
        pytorch_top5=_share(expected, labels, TOP),
        agreement=None if expected is None else hits(logits, best_classes(expected), 1),
        told_by=data.images.told_by,
        unsound=(
            *not_numbers(f"logits on {data.source}", logits),
            *(() if expected is None else not_numbers(f"PyTorch's on {data.source}", expected)),
        ),
    )


def _share(
    logits: NDArray[Any] | None, labels: NDArray[np.int64] | None, among: int
) -> float | None:
    """Share of logits (B, classes) with their label among so many best, if that says anything."""
    if logits is None or labels is None or (among > 1 and logits.shape[1] <= among):
        return None
    return hits(logits, labels, among)


def share_failures(
    agreement: Mapping[str, Agreement | None], accuracy: Accuracy | None, tolerances: Tolerances
) -> tuple[str, ...]:
    """Which shares fall short of what was asked for, a sentence each.

    Agreement is judged on the user's images where there are some, else on the bundle's. What was
    asked for and cannot be told falls short.
    """
    failures = list(accuracy.unsound) if accuracy else []
    least, drop = tolerances.min_agreement, accuracy.drop if accuracy else None
    shares = {name: one.top1 for name, one in agreement.items() if one is not None}
    if accuracy is not None:
        shares = {LOGITS: accuracy.agreement}
    told = {name: share for name, share in shares.items() if share is not None}
    if least is not None and not told:
        failures.append("nothing tells whether classes agree: no output has any")
    for name, share in told.items():
        if least is not None and share < least - ROUNDING:
            failures.append(
                f"{name} give PyTorch's class for {share:.1%} of the images, less than {least:.1%}"
            )
    most = tolerances.max_drop
    if most is not None and drop is None:
        failures.append("nothing tells how much accuracy is lost: there are no labels")
    elif most is not None and drop is not None and drop > most + ROUNDING:
        failures.append(f"accuracy is {drop:.2f} points below PyTorch's, more than {most:g} allows")
    return tuple(failures)
