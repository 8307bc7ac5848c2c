"""Verification that understands top-k: an ONNX file against PyTorch's recorded answers.

A top-k is discontinuous. Where a candidate keeps another token than PyTorch did, its logits
differ, and no tolerance tells a rounding tie from a fault. So the two are judged apart:

- images whose kept sets agree are compared tightly, number by number;
- where they differ, every token swapped must have scored within the margin of rounding of the
  cut, in PyTorch's own scores; then it is a tie, and anything else is a fault.

A comparison that compared nothing has not passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dynexport.backends import Runner
from dynexport.errors import InputError, VerificationError
from dynexport.graph.precision import precision_of
from dynexport.graph.selection import add_kept_outputs
from dynexport.metadata import Metadata
from dynexport.onnxfile import read_metadata
from dynexport.reference import ReferenceBundle
from dynexport.subject import Subject, find_subject

TOLERANCES: Mapping[str, float] = MappingProxyType({"fp32": 1e-4, "fp16": 5e-3})
"""By precision, the accepted error of outputs, relative to the largest (but at least to one)."""

TIE_MARGINS: Mapping[str, float] = MappingProxyType({"fp32": 1e-4, "fp16": 2e-3})
"""By precision, how close two scores are, relative to the largest (but at least to one), that may
change places by rounding."""


@dataclass(frozen=True)
class StageOverlap:
    """Kept sets of one pruning stage, over all images.

    overlap: mean share of kept tokens both chose; ties, faults: tokens swapped inside and
    outside the margin of rounding.
    """

    overlap: float
    ties: int
    faults: int


@dataclass(frozen=True)
class Errors:
    """One output against the reference.

    max_abs, mean_abs  of the differences, over images whose kept sets agree
    scale              largest value of the reference, by magnitude
    cosine             smallest cosine of an image's output and the reference's
    top1_agreement     share of images with the same best class; None for maps of features
    """

    max_abs: float
    mean_abs: float
    scale: float
    cosine: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Verification:
    """The outcome; ``failures`` says why where it did not pass.

    errors       by the output's name
    images       images compared number by number, of ``images_run``; the others hold ties
    batch_sizes  batch sizes that were run: the optimal on all images, others on two batches
    """

    model: str
    reference: str
    backend: str
    precision: str
    images: int
    images_run: int
    batch_sizes: tuple[int, ...]
    errors: dict[str, Errors]
    stages: tuple[StageOverlap, ...]
    tolerance: float
    passed: bool
    failures: tuple[str, ...]

    def require_passed(self) -> None:
        """VerificationError that says what failed, if anything did."""
        if not self.passed:
            raise VerificationError(f"{self.model} failed verification: {'; '.join(self.failures)}")


def verify(
    model: str | Path,
    reference: str | Path | None = None,
    *,
    backend: str | None = None,
    engine: str | Path | None = None,
    trust: bool = False,
    tolerance: float | None = None,
    tie_margin: float | None = None,
) -> Verification:
    """Replay a reference bundle (by default the one beside it) through an ONNX file, or through
    an engine that was built from it."""
    model = Path(model)
    subject = find_subject(model, backend, engine, trust)
    path = Path(reference) if reference else ReferenceBundle.path_beside(model)
    bundle = ReferenceBundle.load(path)
    bundle.require_made_for(read_metadata(model, subject.graph), path, model)
    return compare(subject, bundle, str(path), tolerance, tie_margin)


def compare(
    subject: Subject,
    bundle: ReferenceBundle,
    reference: str,
    tolerance: float | None = None,
    tie_margin: float | None = None,
) -> Verification:
    """Compare a subject with a bundle in hand; ``reference`` is what reports call the bundle.

    ``tolerance`` and ``tie_margin`` are by default those of the graph's precision.
    """
    precision = precision_of(subject.graph)
    known = precision if precision in TOLERANCES else "fp32"
    tolerance = TOLERANCES[known] if tolerance is None else tolerance
    tie_margin = TIE_MARGINS[known] if tie_margin is None else tie_margin
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance {tolerance:g} is not valid: give a number above 0")
    metadata = read_metadata(subject.name, subject.graph)
    images = bundle.inputs(metadata.preprocessing)
    sizes, optimal = subject.sizes, subject.optimal
    rows = {size: _rows(len(images), size, None if size == optimal else 2) for size in sizes}
    with subject.open() as runner:
        answers = [_run(runner, images, rows[size]) for size in sizes]
    stages: tuple[StageOverlap, ...] = ()
    tied = np.zeros(len(images), dtype=bool)
    if bundle.kept:
        kept = _kept_sets(subject, metadata, images, rows[optimal])
        stages, tied = judge_selection(bundle, kept, np.concatenate(rows[optimal]), tie_margin)
    every = np.concatenate([row for size in sizes for row in rows[size]])
    judged = {
        name: judge_output(name, expected[every], _joined(answers, name), tied[every], tolerance)
        for name, expected in bundle.outputs.items()
    }
    failures = _selection_failures(stages) + sum((wrong for _, wrong in judged.values()), ())
    return Verification(
        model=subject.name,
        reference=reference,
        backend=subject.backend,
        precision=precision,
        images=len(images) - int(tied.sum()),
        images_run=len(images),
        batch_sizes=sizes,
        errors={name: errors for name, (errors, _) in judged.items()},
        stages=stages,
        tolerance=tolerance,
        passed=not failures,
        failures=failures,
    )


def _rows(count: int, size: int, most: int | None) -> list[NDArray[np.int64]]:
    """Which of ``count`` images go into each batch of ``size``: all of them once, the last batch
    filled up from the front; ``most`` batches at most."""
    starts = range(0, count, size)[:most]
    return [np.arange(start, start + size) % count for start in starts]


def _run(
    runner: Runner, images: NDArray[np.float32], batches: list[NDArray[np.int64]]
) -> dict[str, NDArray[np.generic]]:
    """Outputs by name, a row for every row of every batch."""
    answers: dict[str, list[NDArray[np.generic]]] = {}
    for rows in batches:
        for name, values in runner.run(np.ascontiguousarray(images[rows])).items():
            answers.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in answers.items()}


def _joined(answers: list[dict[str, NDArray[np.generic]]], name: str) -> NDArray[np.generic]:
    """One output of several runs, a row for every row of each."""
    return np.concatenate([answer[name] for answer in answers])


def _kept_sets(
    subject: Subject,
    metadata: Metadata,
    images: NDArray[np.float32],
    batches: list[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], ...]:
    """What it keeps, told by a probe copy, so that the product carries no extra output."""
    probe = subject.graph.clone()
    names = add_kept_outputs(probe, metadata)
    with subject.open_probe(probe) as runner:
        answers = _run(runner, images, batches)
    return tuple(np.sort(answers[name].astype(np.int64), axis=1) for name in names)


def judge_selection(
    bundle: ReferenceBundle,
    kept: tuple[NDArray[np.int64], ...],
    rows: NDArray[np.int64],
    margin: float,
) -> tuple[tuple[StageOverlap, ...], NDArray[np.bool_]]:
    """Per stage the overlap with the reference, and which images (P,) hold a swapped token.

    kept: per stage (R, K); rows (R,): the image each row is of. An image that held a tie at one
    stage goes on with other tokens, so its later stages count for the overlap alone.
    """
    tied = np.zeros(len(bundle.images), dtype=bool)
    stages = []
    for theirs, ours, scores in zip(bundle.kept, kept, bundle.scores, strict=True):
        shares, ties, faults = [], 0, 0
        tied_before = tied.copy()
        for row, image in enumerate(rows):
            swapped = np.setxor1d(theirs[image], ours[row])
            shares.append(np.intersect1d(theirs[image], ours[row]).size / theirs.shape[1])
            if not swapped.size or tied_before[image]:
                continue
            outside = _outside_margin(scores[image], theirs[image], swapped, margin)
            faults += outside
            ties += swapped.size - outside
            tied[image] = True
        stages.append(StageOverlap(float(np.mean(shares)), ties, faults))
    return tuple(stages), tied


def _outside_margin(
    scores: NDArray[np.float32],
    kept: NDArray[np.int64],
    swapped: NDArray[np.int64],
    margin: float,
) -> int:
    """How many of the tokens ``swapped`` scored too far from the cut for rounding to explain."""
    cut = scores[kept].min()
    room = margin * max(1.0, float(np.abs(scores[np.isfinite(scores)]).max()))
    on_grid = swapped[(swapped >= 0) & (swapped < scores.size)]
    return int(swapped.size - (np.abs(scores[on_grid] - cut) <= room).sum())


def _selection_failures(stages: tuple[StageOverlap, ...]) -> tuple[str, ...]:
    return tuple(
        f"stage {number} swapped {stage.faults} tokens that rounding does not explain "
        f"(overlap {stage.overlap:.1%})"
        for number, stage in enumerate(stages, start=1)
        if stage.faults
    )


def judge_output(
    name: str,
    expected: NDArray[np.float32],
    found: NDArray[np.generic],
    tied: NDArray[np.bool_],
    tolerance: float,
) -> tuple[Errors, tuple[str, ...]]:
    """Numbers and failures for one output (R, ...); ``tied`` says which rows (R,) hold a tie."""
    reference, values = expected.astype(np.float64), found.astype(np.float64)
    scale = float(np.abs(reference).max(initial=0.0))
    incomparable = Errors(np.inf, np.inf, scale, 0.0, None)
    if values.shape != reference.shape:
        shapes = f"{list(values.shape)}, expected {list(reference.shape)}"
        return incomparable, (f"{name} has shape {shapes}",)
    differences = np.abs(values - reference)[~tied]
    if not differences.size:
        return incomparable, (f"{name}: there was nothing to compare, every image holds a tie",)
    rows, theirs = values.reshape(len(values), -1), reference.reshape(len(values), -1)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (rows * theirs).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    same_class = values.argmax(axis=1) == reference.argmax(axis=1)
    errors = Errors(
        max_abs=float(differences.max()),
        mean_abs=float(differences.mean()),
        scale=scale,
        cosine=float(cosines.min()),
        top1_agreement=float(same_class.mean()) if values.ndim == 2 else None,
    )
    limit = tolerance * max(1.0, scale)
    if errors.max_abs <= limit:
        return errors, ()
    return errors, (f"{name} differs by {errors.max_abs:.3g}, more than {limit:.3g} allows",)
