"""What static int8 takes: ranges from images, each choice made on images held out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration import METHODS, Observation, RangeCache, choose_threshold
from dynexport.calibration.held_out import HeldOut, Nearness
from dynexport.calibration.running import batch_size, observe
from dynexport.calibration.sensitivity import Sensitivity, raise_layers, rank_layers
from dynexport.calibration.smooth import choose_factors, find_norms, fold
from dynexport.errors import InputError
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import fingerprint_of
from dynexport.graph.linear_layers import LinearLayer, find_linear_layers
from dynexport.graph.quantise import STEPS, WEIGHT_STEPS, quantise
from dynexport.images import ImageSet
from dynexport.progress import OnProgress

HELD_OUT = 0.25
"""Share of the calibration images that no range is taken from: choices are made on them."""

TRIAL_IMAGES = 64
"""Of those, how many are run for each question asked of a whole graph, at most."""

OVERLAP_LOST = 0.01
"""A quantised predictor passes if no stage's kept set loses more than this share by it."""


@dataclass(frozen=True)
class Range:
    """How one layer's activation is quantised.

    layer      the module
    threshold  largest magnitude that is not clipped
    method     that chose it
    alpha      of the folding into the norm before it; None where nothing was folded
    """

    layer: str
    threshold: float
    method: str
    alpha: float | None


@dataclass(frozen=True)
class Int8Report:
    """What calibration chose, and why.

    images, held_out  how many ranges were taken from, and how many choices were made on
    tried             how many of those were run through the whole graph
    ranges            of every int8 layer, in the graph's order
    predictors        whether the predictors are int8 as well: the outcome of the selection test
    nearness          of the finished graph to the float32 one, on the images held out
    smoothed          values that folding rescaled, so that they are not the float32 graph's
    ranking           harm of each place by itself, the worst first; empty unless asked for
    raised            layers raised back to float
    """

    images: int
    held_out: int
    tried: int
    ranges: tuple[Range, ...]
    predictors: bool
    nearness: Nearness
    smoothed: tuple[str, ...]
    ranking: tuple[Sensitivity, ...]
    raised: tuple[str, ...]


def calibrate(
    model: ir.Model,
    metadata: Metadata,
    images: ImageSet,
    *,
    methods: Collection[str] = METHODS,
    target_agreement: float | None = None,
    on_progress: OnProgress,
) -> tuple[ir.Model, Int8Report]:
    """An int8 graph of a float32 one, and what was chosen.

    methods           ranges are chosen among these
    target_agreement  rank the layers, and raise the most harmful back to float until this share
                      of the images held out keeps its class; None raises none

    Memory is bounded by one batch, whatever the number of images. InputError if there is nothing
    to quantise.
    """
    seen_images, held_images = images.split(HELD_OUT)
    size = batch_size(metadata)
    model, layers, ranges, smoothed = _choose_ranges(
        model, seen_images, held_images, size, tuple(methods), on_progress
    )
    held_out = HeldOut(model, metadata, held_out_batches(images, size))
    thresholds, near, predictors = _test_predictors(model, layers, ranges, held_out, on_progress)
    ranking, raised, thresholds, near = _raise_harmful(
        model, layers, thresholds, near, held_out, target_agreement, on_progress
    )
    report = Int8Report(
        images=seen_images.count,
        held_out=held_images.count,
        tried=held_out.count,
        ranges=tuple(ranges[node] for node in thresholds),
        predictors=predictors,
        nearness=near,
        smoothed=smoothed,
        ranking=ranking,
        raised=raised,
    )
    return quantise(model, thresholds), report


def held_out_batches(images: ImageSet, size: int) -> Iterator[NDArray[np.float32]]:
    """Those of the calibration images that no range is taken from, as many as a trial runs on."""
    _, held_images = images.split(HELD_OUT)
    return islice(held_images.batches(size), -(-TRIAL_IMAGES // size))


def _raise_harmful(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    thresholds: dict[str, float],
    near: Nearness,
    held_out: HeldOut,
    target_agreement: float | None,
    on_progress: OnProgress,
) -> tuple[tuple[Sensitivity, ...], tuple[str, ...], dict[str, float], Nearness]:
    """Layers by their harm, those raised back to float for the agreement, the thresholds of the
    others, and how near the graph comes then. Where none is asked for, all stay as they are."""
    if target_agreement is None:
        return (), (), thresholds, near
    chosen = [layer for layer in layers if layer.node in thresholds]
    ranking = rank_layers(model, chosen, thresholds, held_out, on_progress)
    left, raised, near = raise_layers(
        model, chosen, thresholds, ranking, held_out, target_agreement
    )
    return ranking, raised, left, near


def _choose_ranges(
    model: ir.Model,
    seen_images: ImageSet,
    held_images: ImageSet,
    size: int,
    methods: tuple[str, ...],
    on_progress: OnProgress,
) -> tuple[ir.Model, tuple[LinearLayer, ...], dict[str, Range], tuple[str, ...]]:
    """The graph, smoothed where it pays, its layers, a range for each by its node, and the
    values that were smoothed."""
    layers = find_linear_layers(model)
    if not layers:
        raise InputError("the graph has no product with constant weights: nothing to quantise")
    sources = {layer.source for layer in layers}
    both = (seen_images, held_images)
    seen, held = _observe(model, sources, both, size, on_progress)
    alphas, smoothed, model = _smooth(model, layers, seen, held)
    if alphas:
        moved = {layer.source for layer in layers if layer.node in alphas}
        seen_again, held_again = _observe(model, moved, both, size, on_progress)
        seen, held = seen | seen_again, held | held_again
        layers = find_linear_layers(model)
    ranges = {}
    for done, layer in enumerate(layers):
        on_progress("choose ranges", done, len(layers))
        rows = held[layer.source].rows
        histogram = seen[layer.source].histogram
        choice = choose_threshold(
            histogram, rows, layer.weights, methods, levels=STEPS, weight_levels=WEIGHT_STEPS
        )
        alpha = alphas.get(layer.node)
        ranges[layer.node] = Range(layer.name, choice.threshold, choice.method, alpha)
    on_progress("choose ranges", len(layers), len(layers))
    return model, layers, ranges, smoothed


def _observe(
    model: ir.Model,
    names: Collection[str],
    sets: Sequence[ImageSet],
    size: int,
    on_progress: OnProgress,
) -> Iterator[dict[str, Observation]]:
    """What these values hold on each set of images, kept for the next time."""
    digest = fingerprint_of(model)
    for images in sets:
        cache = RangeCache.keyed_by(digest, images.digest, {"names": sorted(names)})
        known = cache.load()
        if known.keys() != set(names):
            told = f"observe {len(names)} activations on {images.count} images"
            known = observe(model, names, _counted(images, size, told, on_progress))
            cache.save(known)
        yield known


def _counted(
    images: ImageSet, size: int, told: str, on_progress: OnProgress
) -> Iterator[NDArray[np.float32]]:
    """The images in batches, each told of when it is done."""
    done = 0
    for batch in images.batches(size):
        on_progress(told, done, images.count)
        yield batch
        done += len(batch)
    on_progress(told, done, images.count)


def _test_predictors(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    ranges: Mapping[str, Range],
    held_out: HeldOut,
    on_progress: OnProgress,
) -> tuple[dict[str, float], Nearness, bool]:
    """Thresholds of what becomes int8, how near the graph comes then, and whether the predictors
    are among them: where they select as they did."""
    plain = {p.node: ranges[p.node].threshold for p in layers if not p.ranks}
    near = held_out.judge(quantise(model, plain))
    if not any(layer.ranks for layer in layers):
        return plain, near, False
    on_progress("test whether int8 predictors select the same", 0, 1)
    both = {p.node: ranges[p.node].threshold for p in layers}
    nearer = held_out.judge(quantise(model, both))
    on_progress("test whether int8 predictors select the same", 1, 1)
    passed = all(
        ours >= theirs - OVERLAP_LOST
        for ours, theirs in zip(nearer.overlaps, near.overlaps, strict=True)
    )
    return (both, nearer, True) if passed else (plain, near, False)


def _smooth(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    seen: Mapping[str, Observation],
    held: Mapping[str, Observation],
) -> tuple[dict[str, float], tuple[str, ...], ir.Model]:
    """Fold where it pays: alpha by layer, the values this rescaled, and the graph, the same if
    nothing was folded."""
    smoothed: list[str] = []
    factors: dict[str, NDArray[np.float32]] = {}
    alphas: dict[str, float] = {}
    for norm in find_norms(model, [layer for layer in layers if not layer.ranks]):
        chosen = choose_factors(norm, seen, held)
        if chosen is not None:
            alpha, factors[norm.node] = chosen
            alphas |= {layer.node: alpha for layer in norm.layers}
            smoothed.extend(norm.values)
    return alphas, tuple(smoothed), fold(model, factors) if factors else model
