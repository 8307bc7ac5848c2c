"""Verification that understands top-k: an ONNX file or an engine against PyTorch.

A top-k is discontinuous. Where a candidate keeps another token than PyTorch did, its outputs
differ, and no tolerance tells a rounding tie from a fault. So four things are judged apart:

- numbers: under one and the same choice, replayed, outputs are compared tightly;
- the selection: every token swapped must have scored within the margin of rounding of the cut, in
  PyTorch's own scores; then it is a tie, and anything else is a fault;
- what a user gets, each with its own choice: classes, cosine, divergence;
- accuracy, where there are labelled images.

A comparison that compared nothing has not passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynexport.artifact import find_artifact
from dynexport.compare.original import Original
from dynexport.compare.tolerances import Limits, Tolerances
from dynexport.errors import InputError
from dynexport.files import existing_file
from dynexport.precision import choose_tolerances
from dynexport.progress import OnStep, silent
from dynexport.pytorch import require_convert_extras
from dynexport.verify.comparing import open_data, verify, verify_artifact
from dynexport.verify.outcome import Verification

__all__ = [
    "Limits",
    "Original",
    "Tolerances",
    "Verification",
    "choose_tolerances",
    "open_data",
    "verify",
    "verify_artifact",
    "verify_model",
]


def verify_model(
    model: str | Path,
    *,
    reference: str | Path | None = None,
    checkpoint: str | Path | None = None,
    backend: str | None = None,
    engine: str | Path | None = None,
    trust: bool = False,
    tolerance: float | None = None,
    tie_margin: float | None = None,
    min_agreement: float | None = None,
    max_drop: float | None = None,
    data: str | Path | None = None,
    data_images: int | None = None,
    bisect: bool = False,
    plugins: Sequence[str | Path] = (),
    on_step: OnStep = silent,
) -> Verification:
    """Verify an ONNX file against a reference bundle, or against a checkpoint run in PyTorch.

    By default the bundle beside it. With ``checkpoint``, PyTorch answers afresh for the bundle's
    images where there is one, else for synthetic ones; ``plugins`` are files of families. With
    ``engine``, the TensorRT engine built from the file is run in its place; ``trust`` opens it
    whatever its sidecar says of where it runs.

    tolerance, tie_margin  accepted error of outputs, and how close to the cut scores may change
                           places; by default those of the precision, see `Tolerances`
    min_agreement          share of images, 0 to 1, that must be given PyTorch's class
    max_drop               points of accuracy on ``data`` that may be lost against PyTorch
    data, data_images      labelled images to measure accuracy on, all or up to so many
    bisect                 name the first node that departs from a sound graph
    """
    if reference is not None and checkpoint is not None:
        raise InputError("--reference and --checkpoint were both given: give one of the two")
    for asked, option in ((bisect, "--bisect"), (max_drop is not None, "--max-drop")):
        if asked and checkpoint is None:
            raise InputError(f"{option} compares with PyTorch: give --checkpoint as well")
    if max_drop is not None and data is None:
        raise InputError("--max-drop is of accuracy: give labelled images, with --data")
    if checkpoint is None:
        return verify(
            model,
            reference,
            backend=backend,
            engine=engine,
            trust=trust,
            tolerance=tolerance,
            tie_margin=tie_margin,
            min_agreement=min_agreement,
            data=data,
            data_images=data_images,
            on_step=on_step,
        )
    path = existing_file(model, "an ONNX file")
    limits = Limits(tolerance, tie_margin, min_agreement, max_drop)
    artifact = find_artifact(path, backend, engine, trust)
    tolerances = choose_tolerances(artifact.precision, limits)
    images = open_data(data, data_images, artifact)
    require_convert_extras()
    from dynexport.pytorch.model import open_original, reference_images

    metadata = artifact.require_metadata()
    original = open_original(Path(checkpoint), metadata, path, plugins)
    return verify_artifact(
        artifact,
        original.answer(reference_images(path, metadata)),
        str(checkpoint),
        tolerances,
        original=original,
        data=images,
        find_departure=bisect,
        on_step=on_step,
    )
