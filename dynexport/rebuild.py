"""From an ONNX file back to the PyTorch model it was made from: to ask it again, or to time it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dynexport.backends.torch import TorchRunner, open_module
from dynexport.calibration import synthetic_images
from dynexport.checkpoint import build_model, load_checkpoint
from dynexport.errors import ModelFileError
from dynexport.export import record_reference
from dynexport.keep import KeepSchedule
from dynexport.metadata import Metadata
from dynexport.models import find_family, load_plugins
from dynexport.onnxfile import read_metadata
from dynexport.reference import REFERENCE_IMAGES, ReferenceBundle
from dynexport.rewrite import rewrite


def ask_again(
    checkpoint: Path, metadata: Metadata, model: Path, plugins: Sequence[str | Path] = ()
) -> ReferenceBundle:
    """PyTorch's answers from a checkpoint, at the ratios an ONNX file was exported with.

    On the images of the bundle beside the file where there is one, else on synthetic ones.
    ModelFileError if the file was made from another checkpoint.
    """
    load_plugins(plugins)
    weights = None if metadata.weights == "bare" else metadata.weights
    loaded = load_checkpoint(checkpoint, weights)
    if loaded.sha256 != metadata.checkpoint_sha256:
        raise ModelFileError(
            f"{model} was not made from {checkpoint}: it names a checkpoint with SHA-256 "
            f"{metadata.checkpoint_sha256[:12]}, this one has {loaded.sha256[:12]}"
        )
    family = find_family(metadata.family)
    trained = build_model(loaded, family, family.config(**metadata.config))
    beside = ReferenceBundle.path_beside(model)
    if beside.exists():
        recorded = ReferenceBundle.load(beside)
        recorded.require_made_for(metadata, beside, model)
        images = recorded.images
    else:
        images = synthetic_images(REFERENCE_IMAGES, metadata.preprocessing.img_size)
    return record_reference(rewrite(trained, _schedule(metadata)), metadata, images)


def open_pytorch(
    model: str,
    dense: bool,
    threads: int | None = None,
    plugins: Sequence[str] = (),
    device: str = "cpu",
    half: bool = False,
    compiled: bool = False,
) -> TorchRunner:
    """The inference form an ONNX file was made from, with random weights, for timing only."""
    load_plugins(plugins)
    metadata = read_metadata(model)
    torch.manual_seed(0)
    family = find_family(metadata.family)
    trained = family.model(family.config(**metadata.config))
    lean = rewrite(trained, None if dense else _schedule(metadata))
    return open_module(lean, threads, device=device, half=half, compiled=compiled)


def _schedule(metadata: Metadata) -> KeepSchedule | None:
    return None if metadata.ratios is None else KeepSchedule(metadata.ratios)
