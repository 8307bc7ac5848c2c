"""The files that are compared: ours in every precision, the plain export and what optimisers make
of it.

Each function here runs in a process of its own, so that two machine cores prepare at once, and
returns what can be sent between processes. What fails is a sentence in place of a path.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plain import export_plain, plain_model
from random_weights import random_model

import dynexport
from dynexport.artifact import find_artifact
from dynexport.bench.candidates import write_twin
from dynexport.bench.stopwatch import Candidate
from dynexport.formats.metadata import Batch
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.batch import change_batch
from dynexport.graph.macs import count_macs
from dynexport.images import ImageSize, Preprocessing, synthetic_images
from dynexport.models import find_variant
from dynexport.precision import find_precision
from dynexport.pytorch.rewrite import keep_counts
from dynexport.schedule import schedule_from_base

CALIBRATION_IMAGES = 16

TOLERANCE = 1e-3
"""Of the largest logit: float32 gives 1e-6; an optimiser that breaks a graph gives 0.1."""

SPARSE = "sparse.onnx"

PLAIN_FORM = "plain export"
OPTIMISED = "plain, ORT optimizer"
SLIMMED = "plain, onnxslim"

OPTIMIZER_TYPES = {"deit": "vit", "lvvit": "vit", "swin": "swin", "convnext": "bert"}
"""onnxruntime.transformers' model_type. It has none for convolutions: bert is its default."""


@dataclass(frozen=True)
class OnnxFile:
    """A graph that is timed.

    path   where it is; "" where it could not be made
    macs   multiply-accumulates for one image; nodes: of the graph
    reason why there is none
    """

    path: str
    macs: int = 0
    nodes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Subject:
    """A published variant: tokens each stage keeps at the ratio, pixels a side, and the files that
    conversion starts from."""

    name: str
    ratio: float
    counts: tuple[int, ...]
    img_size: ImageSize
    checkpoint: str
    pictures: str


def write_subject(name: str, ratio: float, folder: Path) -> Subject:
    """A checkpoint with random weights, and images to calibrate on."""
    model, (family, _) = random_model(name), find_variant(name)
    size = model.config.img_size
    keep = schedule_from_base(family.schedule, ratio, len(model.config.prune_at))
    checkpoint, pictures = folder / f"{name}.pth", folder / f"{name}.npz"
    torch.save({"model": model.state_dict()}, checkpoint)
    np.savez(pictures, images=synthetic_images(CALIBRATION_IMAGES, size))
    counts = keep_counts(model, keep)
    return Subject(name, ratio, counts, size, str(checkpoint), str(pictures))


def write_ours(
    subject: Subject, precision: str, batches: Sequence[int], folder: Path
) -> dict[int, tuple[OnnxFile, OnnxFile]]:
    """By batch size what ``dynexport convert`` makes, and the dense twin that ``dynexport bench``
    times. Converted once: at another size conversion gives the same graph with that size in it."""
    calibrated = subject.pictures if find_precision(precision).images == "needed" else None
    wanted = dynexport.Precision(precision, calibration_data=calibrated)
    first = _folder_for(subject, precision, batches[0], folder) / SPARSE
    try:
        dynexport.convert(
            dynexport.Recipe(
                subject.checkpoint,
                ratio=subject.ratio,
                batch=batches[0],
                precision=wanted,
                output=first,
            )
        )
        files = {}
        for batch in batches:
            within = _folder_for(subject, precision, batch, folder)
            if batch != batches[0]:
                graph = read_model(first)
                change_batch(graph, read_metadata(first, graph), Batch.parse(str(batch)))
                (within / SPARSE).write_bytes(to_bytes(graph))
            twin = write_twin(find_artifact(within / SPARSE), within)
            assert twin is not None
            files[batch] = _described(within / SPARSE), _described(twin)
    except dynexport.DynexportError as error:
        failed = OnnxFile("", reason=f"not converted: {error}")
        return dict.fromkeys(batches, (failed, failed))
    return files


def write_plain(
    subject: Subject, batch: int, sparse: bool, forms: Sequence[str], folder: Path
) -> dict[str, OnnxFile]:
    """The plain export, and of ``forms`` what the optimisers make of it, by form."""
    logging.disable(logging.WARNING)  # of operators that no exporter here needs
    name = f"{subject.name}-{batch}-{'sparse' if sparse else 'dense'}"
    path = folder / f"{name}-plain.onnx"
    export_plain(plain_model(subject.name, subject.counts if sparse else ()), batch, path)
    files = {PLAIN_FORM: _described(path)}
    for form, optimise in ((OPTIMISED, _optimise), (SLIMMED, _slim)):
        if form not in forms:
            continue
        target = folder / f"{name}-{form.split()[-1]}.onnx"
        try:
            nodes = optimise(subject.name, path, target)
        except Exception as error:  # any of theirs
            files[form] = OnnxFile("", reason=f"{type(error).__name__}: {_first_line(error)}")
        else:  # fused operators hide products, so the work is counted where it came from
            files[form] = OnnxFile(str(target), files[PLAIN_FORM].macs, nodes)
    return files


def compare_answers(
    reference: Candidate, candidates: Sequence[Candidate], shape: tuple[int, int, int, int]
) -> dict[str, str]:
    """Why candidates do not give the reference's logits, by label; those that do are left out."""
    steps = Preprocessing.for_size(shape[2])
    images = steps.to_input(synthetic_images(shape[0], shape[2]))
    expected = _answer(reference, images)
    largest = float(np.abs(expected).max())
    reasons = {}
    for candidate in candidates:
        try:
            error = float(np.abs(_answer(candidate, images) - expected).max())
        except dynexport.DynexportError as failure:
            reasons[candidate.label] = str(failure)
            continue
        if not error <= TOLERANCE * max(1.0, largest):
            reasons[candidate.label] = (
                f"wrong answers: logits of up to {largest:.2g} are off by {error:.2g}"
            )
    return reasons


def _folder_for(subject: Subject, precision: str, batch: int, folder: Path) -> Path:
    within = folder / f"{subject.name}-{batch}-{precision}"
    within.mkdir(exist_ok=True)
    return within


def _answer(candidate: Candidate, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with candidate.model.open(candidate.threads) as runner:
        return np.array(runner.run(images)["logits"])


def _optimise(name: str, path: Path, target: Path) -> int:
    """onnxruntime.transformers' optimizer at its default level."""
    from onnxruntime.transformers.optimizer import optimize_model

    family, config = find_variant(name)
    one_width = isinstance(getattr(config, "num_heads", None), int)
    optimised = optimize_model(
        str(path),
        model_type=OPTIMIZER_TYPES[family.name],
        num_heads=config.num_heads if one_width else 0,
        hidden_size=config.embed_dim if one_width else 0,
    )
    optimised.save_model_to_file(str(target))
    return len(optimised.model.graph.node)


def _slim(name: str, path: Path, target: Path) -> int:
    import onnx
    import onnxslim

    slimmed = onnxslim.slim(str(path))
    onnx.save(slimmed, str(target))
    return len(slimmed.graph.node)


def _described(path: Path) -> OnnxFile:
    graph = read_model(path)
    return OnnxFile(str(path), count_macs(graph), len(graph.graph))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["it said nothing"])[0]
