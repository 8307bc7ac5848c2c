"""Pictures of what a model keeps, as data URIs: the image and each stage, a tile each."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynexport.artifact import Artifact
from dynexport.formats.metadata import Metadata
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import open_images
from dynexport.report.facts import Picture, Tile
from dynexport.visualize import look_at
from dynexport.visualize.drawing import TILE, View, dim_dropped, enlarge
from dynexport.visualize.strips import require_grid

SHOWN = 4
"""Images a model, at most."""

LARGEST_PNG = 1 << 15
"""Bytes of a tile: photographs are larger, and are stored as JPEG."""


def draw_pictures(
    artifact: Artifact, metadata: Metadata, images: NDArray[Any]
) -> tuple[Picture, ...]:
    """What a model keeps of images, as `find_shown` gives them."""
    return tuple(
        _draw(view, metadata, number)
        for number, view in enumerate(look_at(artifact, images), start=1)
    )


def find_shown(model: Path, metadata: Metadata, source: Path | None) -> tuple[NDArray[Any], str]:
    """Images to show, and where they are from: a folder or an .npz, else the reference bundle.

    uint8 (B, H, W, C) or float32 (B, C, H, W); DynexportError where there are none.
    """
    if source is not None:
        chosen = open_images(source, metadata.preprocessing, count=SHOWN)
        return np.stack(list(chosen.pictures())), f"{chosen.count} of {source}"
    path = ReferenceBundle.path_beside(model)
    bundle = ReferenceBundle.load(path)
    bundle.require_made_for(metadata, path, model)
    shown = bundle.images[:SHOWN]
    return shown, f"{len(shown)} images of {path.name}"


def _draw(view: View, metadata: Metadata, number: int) -> Picture:
    tokens, grid, name = metadata.num_tokens, require_grid(metadata), f"image {number}"
    large = enlarge(view.picture, TILE)
    tiles = [Tile("input", name, encode_picture(large))]
    lost = "dropped" if metadata.selection.nested else "on the fast path"
    for stage, (kept, count) in enumerate(zip(view.kept, metadata.keep_counts, strict=True), 1):
        alt = f"{name} after stage {stage}: {count} of {tokens} patches kept, the rest {lost}"
        uri = encode_picture(dim_dropped(large, kept, grid))
        tiles.append(Tile(f"stage {stage}: {count} of {tokens}", alt, uri))
    return Picture(name, view.classes, tuple(tiles))


def encode_picture(pixels: NDArray[np.uint8]) -> str:
    """A data URI of a picture (H, W, 3): PNG where that is small, else JPEG."""
    image, stream, kind = Image.fromarray(pixels), io.BytesIO(), "png"
    image.save(stream, "PNG", optimize=True)
    if stream.tell() > LARGEST_PNG:
        stream, kind = io.BytesIO(), "jpeg"
        image.save(stream, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
