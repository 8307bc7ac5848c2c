"""What classes are called: the names in a file, or for 1000 classes those of ImageNet-1k."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from dynexport.errors import InputError
from dynexport.files import existing_file
from dynexport.formats.metadata import Metadata
from dynexport.images.class_folders import IMAGENET_CLASSES
from dynexport.tasks import LOGITS, describe_outputs


def names_of_classes(metadata: Metadata, labels: str | Path | None) -> tuple[str, ...]:
    """A name for each class that a model tells apart; none for one without logits."""
    if LOGITS in metadata.outputs:
        (classes,) = metadata.outputs[LOGITS]
        return name_classes(classes, labels)
    if labels is not None:
        raise InputError(
            f"`labels` names classes, and this model gives {describe_outputs(metadata.outputs)}: "
            "leave `labels` out"
        )
    return ()


def name_classes(classes: int, labels: str | Path | None = None) -> tuple[str, ...]:
    """A name for each class: those in the file ``labels``, ImageNet's, or their numbers."""
    if labels is not None:
        return read_labels(labels, classes)
    if classes == IMAGENET_CLASSES:
        names = resources.files("dynexport.visualize").joinpath("imagenet_1k.txt")
        return tuple(names.read_text(encoding="utf-8").splitlines())
    return tuple(f"class {number}" for number in range(classes))


def read_labels(path: str | Path, classes: int) -> tuple[str, ...]:
    """Names of classes from a text file (UTF-8), one a line in the order of the logits.

    Empty lines at the end do not count. InputError unless there is one for each class.
    """
    path = existing_file(path, "a text file with the name of one class a line")
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{path} is no text in UTF-8: expected the name of one class a line"
        ) from None
    if len(names) != classes:
        raise InputError(
            f"{path} holds {len(names)} names, and the model knows {classes} classes: give one "
            "name a line, in the order of the classes"
        )
    return tuple(name.strip() for name in names)
