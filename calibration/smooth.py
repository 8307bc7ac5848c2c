"""SmoothQuant-style folding: from activations that are hard to quantise into weights that are not.

Channels of a normalised activation differ in size, and one scale for all of them leaves few steps
for the small ones. Dividing the activation by a factor for each channel, and multiplying the rows
of the weights with it, changes nothing but what has to be quantised; the division goes into scale
and offset of the LayerNormalization before (arXiv 2211.10438, equations 3 and 4, whose exponent
alpha is chosen here for each norm, by the error on images held out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration import Observation
from dynexport.graph.constants import add_constant
from dynexport.graph.linear_layers import LinearLayer, find_linear_layers, operands_of, output_axis
from dynexport.graph.quantise import STEPS, quantise_weights

ALPHAS = (0.25, 0.5, 0.75)
"""Exponents that are tried."""

GAIN = 0.95
"""Folding must take the error to less than this share of what it was."""

MOVERS = frozenset({"GatherND", "Reshape", "Transpose", "Split"})
"""Operators that move rows and leave channels, as they are met behind a norm, where they do."""


@dataclass(frozen=True, eq=False)
class SmoothedNorm:
    """A LayerNormalization that only quantised layers read, maybe through moved rows.

    node      its name
    values    names of what it gives, and of its rows where they are moved
    layers    that read it
    """

    node: str
    values: tuple[str, ...]
    layers: tuple[LinearLayer, ...]


def find_norms(model: ir.Model, layers: Sequence[LinearLayer]) -> tuple[SmoothedNorm, ...]:
    """The norms whose every reader is one of these layers."""
    by_node = {layer.node: layer for layer in layers}
    norms = []
    for node in model.graph:
        if node.op_type == "LayerNormalization":
            values = _moved_values(node.outputs[0])
            readers = [user for value in values for user, _ in value.uses()]
            names = [str(user.name) for user in readers if operands_of(user) is not None]
            if names and all(name in by_node for name in names):
                told = tuple(str(value.name) for value in values)
                norms.append(
                    SmoothedNorm(str(node.name), told, tuple(by_node[name] for name in names))
                )
    return tuple(norms)


def choose_factors(
    norm: SmoothedNorm, seen: Mapping[str, Observation], held_out: Mapping[str, Observation]
) -> tuple[float, NDArray[np.float32]] | None:
    """The (alpha, factor of each channel (C,)) that takes most of the layers' error.

    None where folding does not pay. ``seen`` and ``held_out`` by the layers' sources.
    """
    largest = np.max([seen[layer.source].channel_maximum for layer in norm.layers], axis=0)
    rows = {layer.source: held_out[layer.source].rows for layer in norm.layers}
    plain = _error(norm, rows, largest, np.ones_like(largest))
    tried = {alpha: _factors(norm, largest, alpha) for alpha in ALPHAS}
    errors = {alpha: _error(norm, rows, largest, factors) for alpha, factors in tried.items()}
    best = min(errors, key=lambda alpha: errors[alpha])
    return (best, tried[best]) if errors[best] < GAIN * plain else None


def fold(model: ir.Model, factors: Mapping[str, NDArray[np.float32]]) -> ir.Model:
    """A copy with the factors (C,) of these norms, by name, moved into the weights behind them."""
    folded = model.clone()
    layers = {layer.node: layer for layer in find_linear_layers(folded)}
    norms = find_norms(folded, list(layers.values()))
    nodes = {str(node.name): node for node in folded.graph}
    for norm in norms:
        if norm.node not in factors:
            continue
        by = factors[norm.node]
        for place in (1, 2):
            _multiply(folded, nodes[norm.node], place, 1.0 / by)
        for layer in norm.layers:
            reader = nodes[layer.node]
            rows_first = output_axis(reader) == 1
            _multiply(folded, reader, 1, by[:, None] if rows_first else by)
    return folded


def _moved_values(value: ir.Value) -> list[ir.Value]:
    """A value and its rows where they are moved, up to the layers that read them; none if
    anything else reads one of them."""
    if value.is_graph_output() or value.shape is None:
        return []
    found = [value]
    for node, place in value.uses():
        if place == 0 and node.op_type in MOVERS and _keeps_channels(node):
            for moved in node.outputs:
                behind = _moved_values(moved)
                if not behind:
                    return []
                found.extend(behind)
        elif place != 0 or operands_of(node) is None:
            return []
    return found


def _keeps_channels(node: ir.Node) -> bool:
    """Whether the last axis of what goes in is the last axis of what comes out, whole."""
    before, after = node.inputs[0], node.outputs[0]
    assert before is not None
    if before.shape is None or after.shape is None or before.shape[-1] != after.shape[-1]:
        return False
    rank = len(before.shape)
    if node.op_type == "Transpose":
        return list(node.attributes["perm"].as_ints())[-1] == rank - 1
    if node.op_type == "Split":
        return node.attributes.get_int("axis", 0) % rank != rank - 1
    if node.op_type == "GatherND":
        indices = node.inputs[1]
        picked = node.attributes.get_int("batch_dims", 0)
        depth = None if indices is None or indices.shape is None else indices.shape[-1]
        return isinstance(depth, int) and picked + depth < rank
    return True


def _factors(norm: SmoothedNorm, largest: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """max|x_c| ** alpha / max|w_c| ** (1 - alpha), around one."""
    weights = np.max([np.abs(layer.weights).max(axis=1) for layer in norm.layers], axis=0)
    usable = (largest > 0) & (weights > 0)
    factors = np.ones(len(largest), dtype=np.float64)
    factors[usable] = largest[usable] ** alpha / weights[usable] ** (1 - alpha)
    if usable.any():
        factors[usable] /= np.exp(np.log(factors[usable]).mean())
    return factors.astype(np.float32)


def _error(
    norm: SmoothedNorm,
    rows: Mapping[str, NDArray[np.float32]],
    largest: NDArray[np.float32],
    factors: NDArray[np.float32],
) -> float:
    """Squared error of the layers on these rows, quantised after division by the factors."""
    step = max(float((largest / factors).max()), float(np.finfo(np.float32).tiny)) / STEPS
    total = 0.0
    for layer in norm.layers:
        x = rows[layer.source]
        scaled, scales = quantise_weights(layer.weights * factors[:, None], 1)
        quantised = np.clip(np.rint(x / factors / step), -STEPS, STEPS) * step
        difference = quantised @ (scaled * scales) - x @ layer.weights
        total += float(np.square(difference, dtype=np.float64).sum())
    return total


def _multiply(model: ir.Model, node: ir.Node, place: int, factors: NDArray[np.float32]) -> None:
    """A constant input of one node times the factors; others that share it keep theirs."""
    if place >= len(node.inputs) or node.inputs[place] is None:
        return
    value = node.inputs[place]
    assert value is not None
    assert value.const_value is not None
    array = (value.const_value.numpy() * factors).astype(np.float32)
    name = f"{node.name}/input_{place}"
    node.replace_input_with(place, add_constant(model, name, array))
    if not value.uses():
        model.graph.initializers.pop(str(value.name))
