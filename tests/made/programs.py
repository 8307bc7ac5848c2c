"""What programs of others are given: a file in a form that asks something of them, and pictures;
and what they must answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from dynexport.formats.metadata import Batch
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.batch import change_batch
from dynexport.images import fill_batch, open_images
from dynexport.runtimes import open_runner

STEPS = {
    "img_size": [28, 28],
    "resize": [32, 40],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.1],
}


def take_four(path: Path) -> None:
    """Batches of 4 alone."""
    model = read_model(path)
    change_batch(model, read_metadata(path, model), Batch.parse("4"))
    path.write_bytes(to_bytes(model))


def resize_first(path: Path) -> None:
    """Pictures are resized and cropped, and normalised otherwise; as old files say it."""
    change_steps(path, STEPS)


def warp(path: Path) -> None:
    """Pictures are stretched, and the centre is cut out."""
    change_steps(path, {**STEPS, "warp": True})


def change_steps(path: Path, steps: Mapping[str, Any]) -> None:
    """Another preprocessing in the metadata."""
    model = onnx.load(path)
    entry: Any = next(e for e in model.metadata_props if e.key == "dynexport.preprocessing")
    entry.value = json.dumps(steps)
    onnx.save(model, path)


FORMS: Mapping[str, tuple[Callable[[Path], None] | None, tuple[int, int]]] = MappingProxyType(
    {
        "a range of sizes": (None, (28, 28)),
        "one size": (take_four, (28, 28)),
        "wide pictures": (resize_first, (45, 61)),
        "tall pictures": (resize_first, (64, 31)),
        "warped pictures": (warp, (64, 31)),
    }
)
"""A form of a file of 28 pixels, and height and width of the pictures it is given."""


def write_form(name: str, source: str | Path, path: Path) -> None:
    """A file in one of `FORMS`."""
    path.write_bytes(Path(source).read_bytes())
    change = FORMS[name][0]
    if change is not None:
        change(path)


def write_pictures(name: str, folder: Path, suffix: str) -> list[Path]:
    """Seven for a form, so that a last batch is left; smooth ones, as pictures are."""
    folder.mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)
    height, width = FORMS[name][1]
    paths = [folder / f"{number}.{suffix}" for number in range(len(coarse))]
    for path, pixels in zip(paths, coarse, strict=True):
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return paths


def answer(path: Path, folder: Path) -> NDArray[np.float32]:
    """Logits (count, classes) of a folder's pictures, as dynexport prepares and runs them."""
    facts = read_metadata(path)
    sizes = Batch.parse(facts.batch)
    found = []
    with open_runner("onnxruntime", path) as runner:
        for batch in open_images(folder, facts.preprocessing).batches(sizes.optimal):
            filled = fill_batch(batch, max(len(batch), sizes.smallest))
            found.append(runner.run(filled)["logits"][: len(batch)])
    return np.concatenate(found).astype(np.float32)
