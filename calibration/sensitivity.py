"""Which layers int8 harms, and which to raise back to float until the model agrees again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.calibration.held_out import HeldOut, Nearness
from dynexport.graph.linear_layers import LinearLayer
from dynexport.graph.quantise import quantise
from dynexport.progress import OnProgress


@dataclass(frozen=True)
class Sensitivity:
    """What int8 in one place alone does to the model, on images held out.

    layers      those that share the activation quantised, such as q, k and v
    divergence  from the float32 answers, see `dynexport.calibration.held_out.Nearness`
    agreement   with them
    """

    layers: tuple[str, ...]
    divergence: float
    agreement: float


def rank_layers(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    thresholds: Mapping[str, float],
    held_out: HeldOut,
    on_progress: OnProgress,
) -> tuple[Sensitivity, ...]:
    """Each place quantised by itself, the most harmful first."""
    places: dict[str, list[LinearLayer]] = {}
    for layer in layers:
        places.setdefault(layer.source, []).append(layer)
    ranking = []
    for done, group in enumerate(places.values()):
        on_progress("rank layers by the harm of int8", done, len(places))
        alone = {layer.node: thresholds[layer.node] for layer in group}
        near = held_out.judge(quantise(model, alone))
        names = tuple(layer.name for layer in group)
        ranking.append(Sensitivity(names, near.divergence, near.agreement))
    on_progress("rank layers by the harm of int8", len(places), len(places))
    return tuple(sorted(ranking, key=lambda one: -one.divergence))


def raise_layers(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    thresholds: Mapping[str, float],
    ranking: Sequence[Sensitivity],
    held_out: HeldOut,
    target: float,
) -> tuple[dict[str, float], tuple[str, ...], Nearness]:
    """Raise layers back to float32, the most harmful first, until the agreement reaches ``target``.

    Returns the thresholds that are left, the layers raised, and how near the graph comes then.
    """
    left = dict(thresholds)
    raised: list[str] = []
    near = held_out.judge(quantise(model, left))
    for worst in ranking:
        if near.agreement >= target:
            break
        for layer in layers:
            if layer.name in worst.layers:
                left.pop(layer.node, None)
        raised.extend(worst.layers)
        near = held_out.judge(quantise(model, left))
    return left, tuple(raised), near
