"""Outputs as numbers: under one choice, tightly; and running freely, as a user gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.compare.tolerances import Tolerances

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

TOP = 5
"""A class is well placed among so many best."""


@dataclass(frozen=True)
class Errors:
    """One output against PyTorch's under the same choice: numeric error alone.

    max_abs, mean_abs  of the differences
    l2                 the length of an image's difference relative to that of PyTorch's answer,
                       the largest
    scale              largest value of PyTorch's, by magnitude
    """

    max_abs: float
    mean_abs: float
    l2: float
    scale: float


@dataclass(frozen=True)
class Agreement:
    """One output against PyTorch's, each with its own choice, over all images.

    cosine, mean_cosine  of an image's output and PyTorch's, the smallest and the mean
    top1                 share of images with the same best class
    top5                 share of images with PyTorch's best class among the five best
    kl, max_kl           Kullback-Leibler divergence of the classes' probabilities from PyTorch's,
                         nats, the mean and the largest

    None where an output is a map of features, or there are too few classes.
    """

    cosine: float
    mean_cosine: float
    top1: float | None
    top5: float | None
    kl: float | None
    max_kl: float | None


def judge_output(
    name: str, expected: NDArray[np.float32], found: NDArray[Any], tolerances: Tolerances
) -> tuple[Errors, tuple[str, ...]]:
    """Numbers and failures for one output (R, ...)."""
    theirs, ours = expected.astype(np.float64), found.astype(np.float64)
    scale = float(np.abs(theirs).max(initial=0.0))
    if ours.shape != theirs.shape or not ours.size:
        shapes = f"{list(ours.shape)}, expected {list(theirs.shape)}"
        return Errors(np.inf, np.inf, np.inf, scale), (f"{name} has shape {shapes}",)
    differences = np.abs(ours - theirs)
    errors = Errors(
        max_abs=float(differences.max()),
        mean_abs=float(differences.mean()),
        l2=float(relative_lengths(theirs, ours).max()),
        scale=scale,
    )
    if tolerances.measure == "l2":
        if errors.l2 <= tolerances.outputs:
            return errors, ()
        told = f"{errors.l2:.3g} of its length, more than {tolerances.outputs:.3g} allows"
        return errors, (f"{name} differs by {told}",)
    limit = tolerances.outputs * max(1.0, scale)
    if errors.max_abs <= limit:
        return errors, ()
    return errors, (f"{name} differs by {errors.max_abs:.3g}, more than {limit:.3g} allows",)


def constant_failures(model: ir.Model) -> tuple[str, ...]:
    """A sentence for each constant that holds NaN, which no output need show: a runtime may make
    an integer of it."""
    broken = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and value.dtype in FLOATS and np.isnan(tensor.numpy()).any():
            broken.append(f"constant {name} holds NaN")
    return tuple(broken)


def relative_lengths(
    expected: NDArray[Any], found: NDArray[Any], least: float = 0.0
) -> NDArray[np.float64]:
    """Per row ||found - expected|| / ||expected||, both (R, ...) of one shape: (R,).

    A row is taken to be at least as long as they are in the middle, so that one that happens to be
    near zero is not measured by its own rounding, and at least ``least`` long.
    """
    theirs = expected.reshape(len(expected), -1).astype(np.float64)
    ours = found.reshape(len(found), -1).astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1)
    away = np.linalg.norm(ours - theirs, axis=1)
    least = max(least, float(np.median(lengths)), np.finfo(np.float64).tiny)
    return np.asarray(away / np.maximum(lengths, least))


def judge_agreement(expected: NDArray[np.float32], found: NDArray[Any]) -> Agreement | None:
    """What a user gets of one output (P, ...), beside PyTorch's; None where shapes differ."""
    if found.shape != expected.shape:
        return None
    theirs = expected.reshape(len(expected), -1).astype(np.float64)
    ours = found.reshape(len(found), -1).astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    cosines = (theirs * ours).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    cosines[(lengths == 0) & (theirs == ours).all(axis=1)] = 1.0
    classes = expected.shape[1] if expected.ndim == 2 else 0
    apart = divergences(theirs, ours) if classes > 1 else None
    best = theirs.argmax(axis=1)
    return Agreement(
        cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        top1=hits(ours, best, 1) if classes > 1 else None,
        top5=hits(ours, best, TOP) if classes > TOP else None,
        kl=None if apart is None else float(apart.mean()),
        max_kl=None if apart is None else float(apart.max()),
    )


def hits(logits: NDArray[Any], classes: NDArray[np.int64], among: int) -> float:
    """Share of rows of logits (B, classes) with the class (B,) given among so many best ones.

    Of equal logits the lower class comes first, as `argmax` has it.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :among]
    return float((order == classes[:, None]).any(axis=1).mean())


def divergences(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(PyTorch || candidate) of the softmax of logits (B, classes), nats: (B,)."""
    p, q = _log_softmax(theirs), _log_softmax(ours)
    apart: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return np.asarray(np.maximum(apart, 0.0))  # it is below by rounding alone


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
