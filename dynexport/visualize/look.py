"""What a model makes of images: what each stage keeps and ranks patches by, and the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import Artifact
from dynexport.errors import ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.graph.replay import NOWHERE, emit_choices, positions_of, scores_on_grid
from dynexport.graph.selection import kept_outputs
from dynexport.images import Preprocessing
from dynexport.tasks import LOGITS
from dynexport.verify.batches import Outputs, plan_batches, run_batches
from dynexport.visualize.drawing import View
from dynexport.visualize.labels import names_of_classes

TOP = 3
"""Classes named of each image."""


def look_at(
    artifact: Artifact,
    images: NDArray[Any],
    *,
    names: Sequence[str] = (),
    labels: str | Path | None = None,
    scores: bool = False,
    top: int = TOP,
) -> tuple[View, ...]:
    """Run images and tell what was kept of each, and what it was taken for.

    images: pictures uint8 (B, H, W, C) of the model's input size, any number of them, or float32
    (B, C, H, W) already normalised; names: one each. The rest as `visualize_images` takes it.
    """
    metadata = artifact.require_metadata()
    steps = metadata.preprocessing
    inputs = steps.to_input(images)
    pictures = in_colours(images if images.dtype == np.uint8 else to_pictures(inputs, steps))
    classes = names_of_classes(metadata, labels)
    answers, kept, ranked = _ask(artifact, metadata, inputs)
    best = _name_best(answers[LOGITS], classes, top) if classes else ((),) * len(inputs)
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


def to_pictures(inputs: NDArray[np.float32], steps: Preprocessing) -> NDArray[np.uint8]:
    """What is normalised, float32 (B, C, H, W), to be looked at: uint8 (B, H, W, C)."""
    mean, std = np.asarray(steps.mean), np.asarray(steps.std)
    scaled = inputs.transpose(0, 2, 3, 1) * std + mean
    return np.asarray(np.round(255.0 * np.clip(scaled, 0.0, 1.0)), dtype=np.uint8)


def in_colours(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures (B, H, W, C) as red, green and blue, (B, H, W, 3).

    The first three channels; of one or two the first, in grey.
    """
    return pictures[..., :3] if pictures.shape[-1] >= 3 else pictures[..., :1].repeat(3, axis=-1)


def drawn_of(channels: int) -> str:
    """Which channels are drawn, where those are not all, behind a size."""
    return "" if channels in (1, 3) else f", channels 1{'-3' * (channels > 3)} of {channels}"


def _ask(
    artifact: Artifact, metadata: Metadata, inputs: NDArray[np.float32]
) -> tuple[Outputs, tuple[NDArray[np.int64], ...], tuple[NDArray[np.float64], ...]]:
    """Outputs by name; per stage the positions kept (B, K), and the scores of patches (B, N), NaN
    where it did not rank one.

    A probe copy of the graph tells of the stages. Where that is compiled anew, and so may round
    otherwise, the artifact itself answers what it can.
    """
    few = len(inputs) < artifact.optimal
    batches = plan_batches(len(inputs), (), artifact.sizes[0] if few else artifact.optimal)
    answers: Outputs = {}
    if artifact.rebuilt or not metadata.keep_counts:
        with artifact.open() as runner:
            answers = run_batches(runner, inputs, batches)
    if not metadata.keep_counts:
        return _first(answers, len(inputs)), (), ()
    probe = artifact.graph.clone()
    emitted = emit_choices(probe, metadata)
    with artifact.open_probe(probe) as runner:
        probed = _first(run_batches(runner, inputs, batches), len(inputs))
    answers = _first(probed | answers, len(inputs))
    kept = positions_of([probed[rows].astype(np.int64) for rows, _ in emitted], metadata)
    for stage, positions in enumerate(kept, start=1):
        if (positions == NOWHERE).any():
            raise ModelFileError(
                f"stage {stage} of {artifact.name} keeps rows that are no tokens: "
                "`dynexport verify` tells what is wrong with it"
            )
    ranked = tuple(
        _patches(scores_on_grid(probed[scores], kept, stage, metadata), metadata)
        for stage, (_, scores) in enumerate(emitted)
    )
    if own := kept_outputs(artifact.graph):
        kept = tuple(answers[name].astype(np.int64) for name in own)
    return answers, kept, ranked


def _first(answers: Outputs, count: int) -> Outputs:
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
