"""Which images to look at: pictures, folders of them and .npz, and what each is called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dynexport.errors import ImageError, InputError
from dynexport.files import existing_file
from dynexport.files.kinds import PICTURE, other_kind
from dynexport.formats.metadata import Metadata
from dynexport.images import ImageSet, open_images
from dynexport.images.folder import ImageFolder

COUNT = 8
"""Images of a folder or an .npz that are drawn where nobody says how many."""


def find_images(
    sources: Iterable[str | Path], metadata: Metadata, count: int | None = None
) -> tuple[ImageSet, ...]:
    """Pictures, and up to ``count`` of each folder and each .npz, in the order given.

    ImageError or InputError where there are none, or one cannot be used as far as its head tells.
    """
    steps, found = metadata.preprocessing, []
    for source in map(Path, sources):
        if source.suffix == ".npz" or source.is_dir():
            found.append(open_images(source, steps, count=COUNT if count is None else count))
            continue
        file = existing_file(source, "a picture, a folder of pictures or an .npz")
        if other := other_kind(file, PICTURE):
            raise ImageError(other)
        steps.check(file)
        found.append(ImageSet(ImageFolder(file.parent, (file,)), (0,), steps))
    if not found:
        raise InputError("no images were given: name pictures, folders of them, or an .npz")
    return tuple(found)


def files_of(chosen: ImageSet) -> tuple[Path, ...]:
    """The files that images are read from."""
    if isinstance(chosen.images, ImageFolder):
        return tuple(chosen.images.files[place] for place in chosen.places)
    return (chosen.source,)


def names_of(chosen: ImageSet) -> tuple[str, ...]:
    """What to call each image: its path in its folder, or its place in an .npz."""
    if isinstance(chosen.images, ImageFolder):
        return tuple(str(file.relative_to(chosen.source)) for file in files_of(chosen))
    return tuple(f"{chosen.source.name}, image {place}" for place in chosen.places)
