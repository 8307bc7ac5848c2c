"""One configuration of a checkpoint, tried.

It is converted, judged beside the dense model, and timed beside its dense twin.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import find_artifact
from dynexport.bench import Gain, bench_model
from dynexport.compare.numbers import best_classes, require_numbers, share_of
from dynexport.conversion import Recipe, TrainedModel, convert
from dynexport.formats.metadata import Batch
from dynexport.formats.onnx_file import read_metadata, read_model, write_model
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.batch import change_batch
from dynexport.images import ImageSet, fill_batch
from dynexport.progress import OnStep, silent
from dynexport.sweep.inputs import Rig
from dynexport.tasks import LOGITS

if TYPE_CHECKING:
    from dynexport.models import SparseModel

TORCH_BATCH = 32
"""Images PyTorch is given at a time."""


@dataclass(frozen=True)
class Made:
    """A converted file, and what it costs.

    Tokens kept per stage of those there are, multiply-accumulates for one image of it and of its
    dense twin, bytes.
    """

    onnx: Path
    keep_counts: tuple[int, ...]
    num_tokens: int
    macs: int
    macs_dense: int
    size_bytes: int


@dataclass(frozen=True)
class Quality:
    """Share of images given the dense float32 model's class, and their label's; None without."""

    agreement: float
    accuracy: float | None


@dataclass(frozen=True)
class Latency:
    """Medians of a batch, milliseconds, of a file and of its dense twin, and the speed-up.

    gain: of the speed-up, paired round by round; on a GPU without transfers.
    """

    model_ms: float
    dense_ms: float
    gain: Gain


def answer_densely(trained: TrainedModel, images: ImageSet) -> NDArray[np.float64]:
    """Logits (count, classes) of the model with nothing dropped, in PyTorch."""
    from dynexport.pytorch.rewrite import rewrite

    return answer_in_pytorch(rewrite(trained.model, None), images)


def answer_in_pytorch(inference: SparseModel, images: ImageSet) -> NDArray[np.float64]:
    """Logits (count, classes) of an inference form."""
    from dynexport.pytorch.runner import open_module

    with open_module(inference) as runner:
        answers = [runner.run(batch)[LOGITS] for batch in images.batches(TORCH_BATCH)]
    logits = np.concatenate(answers).astype(np.float64)
    require_numbers("PyTorch's logits", logits)
    return logits


def make_file(recipe: Recipe, on_warning: OnStep = silent) -> Made:
    """Convert, and what came out; DynexportError where that fails."""
    done = convert(recipe, on_warning=on_warning)
    facts = done.metadata
    return Made(
        onnx=Path(done.onnx),
        keep_counts=facts.keep_counts,
        num_tokens=facts.num_tokens,
        macs=facts.macs_sparse,
        macs_dense=facts.macs_dense,
        size_bytes=done.size_bytes,
    )


def make_at_batch(made: Made, batch: int, target: Path) -> Made:
    """The same file for another batch size, its reference bundle beside it."""
    graph = read_model(made.onnx)
    change_batch(graph, read_metadata(made.onnx, graph), Batch.parse(str(batch)))
    size = write_model(graph, target)
    shutil.copyfile(ReferenceBundle.path_beside(made.onnx), ReferenceBundle.path_beside(target))
    return dataclasses.replace(made, onnx=target, size_bytes=size)


def judge_file(made: Made, backend: str, images: ImageSet, dense: NDArray[np.int64]) -> Quality:
    """Run a file on images; ``dense``: the dense model's class of each, int64 (count,)."""
    artifact = find_artifact(made.onnx, backend)
    size, found = artifact.optimal, []
    with artifact.open() as runner:
        for batch in images.batches(size):
            logits = runner.run(fill_batch(batch, size))[LOGITS][: len(batch)]
            require_numbers(f"logits of {made.onnx.name}", logits)
            found.append(best_classes(logits))
    classes, labels = np.concatenate(found), images.labels
    return Quality(
        agreement=share_of(classes, dense),
        accuracy=None if labels is None else share_of(classes, labels),
    )


def time_file(made: Made, rig: Rig) -> Latency:
    """Time a file beside its dense twin, each in its own process, in turn."""
    result = bench_model(
        made.onnx, backends=(rig.backend,), threads=rig.threads, pytorch=False, plan=rig.plan
    )
    (only,) = result.batches
    model, dense = (timing.computing.p50 for timing in only.timings)
    return Latency(model, dense, only.gains[0])


def keep_file(made: Made, folder: Path) -> Path:
    """Move a converted file and its reference bundle into a folder; returns where it is now."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / made.onnx.name
    for source, there in (
        (ReferenceBundle.path_beside(made.onnx), ReferenceBundle.path_beside(target)),
        (made.onnx, target),
    ):
        shutil.move(source, there)
    return target
