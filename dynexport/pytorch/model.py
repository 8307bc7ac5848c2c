"""From an ONNX file back to the PyTorch model it was made from, to ask it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from dynexport.compare.original import Kept, Original
from dynexport.errors import ModelFileError
from dynexport.formats.metadata import ExportSpec, Metadata
from dynexport.formats.reference import ReferenceBundle
from dynexport.models import SparseModel, find_family, load_plugins
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.expecting import Reading
from dynexport.pytorch.export import export_onnx, record_reference
from dynexport.pytorch.identify import build_model
from dynexport.pytorch.rewrite import rewrite, schedule_of, takes_replay, with_replay


def open_original(
    checkpoint: Path, metadata: Metadata, model: Path, plugins: Sequence[str | Path] = ()
) -> Original:
    """The checkpoint in PyTorch, at the ratios an ONNX file was exported with.

    ModelFileError if the file was made from another checkpoint.
    """
    load_plugins(plugins)
    reading = reading_of(checkpoint, metadata)
    loaded = reading.checkpoint
    if loaded.sha256 != metadata.checkpoint_sha256:
        raise ModelFileError(
            f"{model} was not made from {checkpoint}: it names a checkpoint with SHA-256 "
            f"{metadata.checkpoint_sha256[:12]}, this one has {loaded.sha256[:12]}"
        )
    trained = build_model(loaded, reading.family, reading.config)
    return describe_original(rewrite(trained, reading.keep), metadata)


def reading_of(checkpoint: Path, metadata: Metadata) -> Reading:
    """A checkpoint as it was read for an ONNX file."""
    weights = None if metadata.weights == "bare" else metadata.weights
    family = find_family(metadata.family)
    return Reading(
        checkpoint=load_checkpoint(checkpoint, weights),
        family=family,
        config=family.config(**metadata.config),
        keep=schedule_of(metadata),
        steps=metadata.preprocessing,
    )


def describe_original(inference: SparseModel, spec: ExportSpec) -> Original:
    """What can be asked of an inference form in PyTorch, of which ``spec`` speaks."""

    def replay(images: NDArray[Any], kept: Kept) -> ReferenceBundle:
        told = with_replay(inference, tuple(torch.from_numpy(positions) for positions in kept))
        return record_reference(told, spec, images)

    return Original(
        answer=lambda images: record_reference(inference, spec, images),
        replay=replay if takes_replay(inference) else None,
        export=lambda: export_onnx(inference, spec),
    )


def recorded_bundle(model: Path, metadata: Metadata) -> ReferenceBundle | None:
    """The bundle beside an ONNX file, if there is one."""
    beside = ReferenceBundle.path_beside(model)
    if not beside.exists():
        return None
    recorded = ReferenceBundle.load(beside)
    recorded.require_made_for(metadata, beside, model)
    return recorded
