"""Which layers int8 harms, and which to raise back to float until the model agrees again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.calibration.trial import Nearness, Trial
from dynexport.graph.linear_layers import Product
from dynexport.graph.quantise import quantise
from dynexport.progress import OnProgress


@dataclass(frozen=True)
class Sensitivity:
    """What int8 in one place alone does to the model, on images held out.

    layers      those that share the activation quantised, such as q, k and v
    divergence  from the float32 answers, see `dynexport.calibration.trial.Nearness`
    agreement   with them
    """

    layers: tuple[str, ...]
    divergence: float
    agreement: float


def rank_layers(
    model: ir.Model,
    products: Sequence[Product],
    thresholds: Mapping[str, float],
    trial: Trial,
    on_progress: OnProgress,
) -> tuple[Sensitivity, ...]:
    """Each place quantised by itself, the most harmful first."""
    places: dict[str, list[Product]] = {}
    for product in products:
        places.setdefault(product.source, []).append(product)
    ranking = []
    for done, group in enumerate(places.values()):
        on_progress("rank layers by the harm of int8", done, len(places))
        alone = {product.node: thresholds[product.node] for product in group}
        near = trial.judge(quantise(model, alone))
        layers = tuple(product.layer for product in group)
        ranking.append(Sensitivity(layers, near.divergence, near.agreement))
    on_progress("rank layers by the harm of int8", len(places), len(places))
    return tuple(sorted(ranking, key=lambda one: -one.divergence))


def raise_layers(
    model: ir.Model,
    products: Sequence[Product],
    thresholds: Mapping[str, float],
    ranking: Sequence[Sensitivity],
    trial: Trial,
    target: float,
) -> tuple[dict[str, float], tuple[str, ...], Nearness]:
    """Raise layers back to float32, the most harmful first, until the agreement reaches ``target``.

    Returns the thresholds that are left, the layers raised, and how near the graph comes then.
    """
    left = dict(thresholds)
    raised: list[str] = []
    near = trial.judge(quantise(model, left))
    for worst in ranking:
        if near.agreement >= target:
            break
        for product in products:
            if product.layer in worst.layers:
                left.pop(product.node, None)
        raised.extend(worst.layers)
        near = trial.judge(quantise(model, left))
    return left, tuple(raised), near
