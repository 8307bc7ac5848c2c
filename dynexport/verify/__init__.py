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
from dataclasses import replace
from pathlib import Path

from dynexport.artifact import Artifact, find_artifact
from dynexport.compare.original import Original
from dynexport.compare.tolerances import AS_USUAL, Limits, Tolerances
from dynexport.errors import InputError
from dynexport.files import existing_file
from dynexport.formats.expectation import Expectation
from dynexport.formats.reference import REFERENCE_IMAGES, ReferenceBundle
from dynexport.images import load_images
from dynexport.precision import choose_tolerances
from dynexport.progress import OnStep, silent
from dynexport.pytorch import require_convert_extras
from dynexport.verify.accuracy import open_data
from dynexport.verify.comparing import tolerances_for, verify_artifact
from dynexport.verify.expected import open_expectation
from dynexport.verify.outcome import Verification

__all__ = [
    "Limits",
    "Original",
    "Tolerances",
    "Verification",
    "choose_tolerances",
    "open_data",
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
    limits: Limits = AS_USUAL,
    data: str | Path | None = None,
    data_images: int | None = None,
    expect: str | Path | None = None,
    bisect: bool = False,
    plugins: Sequence[str | Path] = (),
    on_step: OnStep = silent,
) -> Verification:
    """Verify an ONNX file against a reference bundle, or against a checkpoint run in PyTorch.

    reference          PyTorch's recorded answers; by default the bundle beside the file
    checkpoint         PyTorch answers afresh, for the bundle's images where there is one, else for
                       synthetic ones; ``plugins`` are files of families
    backend            runtime of the file; ``engine``: the TensorRT engine built from it is run in
                       its place, and ``trust`` opens that whatever its sidecar says
    limits             what may differ, where that is not as usual for the file's precision
    data, data_images  labelled images to measure accuracy on, all or up to so many
    expect             .npz of what the user's own model answered to a few images; with a checkpoint
                       the likeliest cause is named where the answers are others
    bisect             name the first node that departs from a sound graph
    """
    _require_consistent(reference, checkpoint, limits, data, bisect)
    path = existing_file(model, "an ONNX file")
    artifact = find_artifact(path, backend, engine, trust)
    images = open_data(data, data_images, artifact)
    expectation = open_expectation(expect, artifact.require_metadata()) if expect else None
    if checkpoint is None:
        original, at = None, Path(reference or ReferenceBundle.path_beside(path))
        bundle = ReferenceBundle.load(at)
        bundle.require_made_for(artifact.require_metadata(), at, path)
    else:
        at = Path(checkpoint)
        original, bundle = _ask_pytorch(at, artifact, path, plugins)
        if expectation is not None:
            _explain(at, artifact, expectation, on_step)
    return verify_artifact(
        artifact,
        bundle,
        str(at),
        tolerances_for(artifact, bundle, limits),
        original=original,
        data=images,
        expectation=expectation,
        find_departure=bisect,
        on_step=on_step,
    )


def _explain(
    checkpoint: Path, artifact: Artifact, expectation: Expectation, on_step: OnStep
) -> None:
    """VerificationError that names the likeliest cause where PyTorch answers otherwise, too."""
    from dynexport.pytorch.expecting import require_expected
    from dynexport.pytorch.model import reading_of

    require_expected(
        reading_of(checkpoint, artifact.require_metadata()), expectation, on_step=on_step
    )


def _require_consistent(
    reference: str | Path | None,
    checkpoint: str | Path | None,
    limits: Limits,
    data: str | Path | None,
    bisect: bool,
) -> None:
    """InputError for what cannot be asked together."""
    if reference is not None and checkpoint is not None:
        raise InputError("`reference` and `checkpoint` were both given: give one of the two")
    drops = limits.max_drop is not None
    for asked, parameter in ((bisect, "bisect"), (drops, "max_drop")):
        if asked and checkpoint is None:
            raise InputError(f"`{parameter}` compares with PyTorch: give `checkpoint` as well")
    if drops and data is None:
        raise InputError("`max_drop` is of accuracy: give labelled images, with `data`")


def _ask_pytorch(
    checkpoint: Path, artifact: Artifact, model: Path, plugins: Sequence[str | Path]
) -> tuple[Original, ReferenceBundle]:
    """The checkpoint in PyTorch, and what it answers to the images of the bundle, or to others."""
    require_convert_extras(checkpoint)
    from dynexport.pytorch.model import open_original, recorded_bundle

    metadata = artifact.require_metadata()
    original = open_original(checkpoint, metadata, model, plugins)
    recorded = recorded_bundle(model, metadata)
    if recorded is None:
        pictures = load_images(None, REFERENCE_IMAGES, metadata.preprocessing)
        return original, original.answer(pictures)
    return original, replace(original.answer(recorded.images), own=recorded.own)
