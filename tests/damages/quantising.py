"""Damages to the scales, zero points and steps of an int8 graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from damages.surgery import Array, Patient


def restore_with_double_scale(patient: Patient) -> None:
    """One product's activations come back twice as large as they were."""
    _, restore = _activation(patient)
    patient.change(restore, 1, lambda scale: 2 * scale)


def double_a_scale(patient: Patient) -> None:
    """One product's activations are quantised in steps twice as large."""
    for node in _activation(patient):
        patient.change(node, 1, lambda scale: 2 * scale)


def double_every_scale(patient: Patient) -> None:
    """All activations are quantised in steps twice as large."""
    _scale_activations(patient, 2.0)


def quarter_every_scale(patient: Patient) -> None:
    """All activations are clipped at a quarter of their range."""
    _scale_activations(patient, 0.25)


def shift_a_zero_point(patient: Patient) -> None:
    """One product's activations come back one step lower."""
    _, restore = _activation(patient)
    patient.change(restore, 2, lambda zero: zero + 1)


def shift_every_zero_point(patient: Patient) -> None:
    """All activations come back one step lower."""
    for quantise in patient.nodes("QuantizeLinear"):
        ((restore, _),) = quantise.outputs[0].uses()
        patient.change(restore, 2, lambda zero: zero + 1)


def scale_weights_by_a_tenth(patient: Patient) -> None:
    """One product's weights come back a tenth too large."""
    patient.change(_weights(patient), 1, lambda scales: scales * np.float32(1.1))


def shuffle_channel_scales(patient: Patient) -> None:
    """Each output of every product is scaled as its neighbour should be."""
    for node in _restored_weights(patient):
        patient.change(node, 1, lambda scales: np.roll(scales, 1))


def share_one_scale(patient: Patient) -> None:
    """All outputs of a product are scaled by the mean of their scales, in every product."""
    for node in _restored_weights(patient):
        patient.change(node, 1, lambda scales: np.full_like(scales, scales.mean()))


def spoil_a_scale(patient: Patient) -> None:
    """One output's scale is not a number."""

    def change(scales: Array) -> Array:
        scales[5] = np.nan
        return scales

    patient.change(_weights(patient), 1, change)


def wrap_large_weights(patient: Patient) -> None:
    """One product's largest weights ran over the end of int8."""
    patient.change(_weights(patient), 0, lambda w: np.where(np.abs(w) > 50, -w, w))


def _weights(patient: Patient) -> ir.Node:
    """What restores the weights of a product."""
    restored = patient.layer(patient.parts.widen).inputs[1]
    assert restored is not None
    node = restored.producer()
    assert node is not None
    return node


def _restored_weights(patient: Patient) -> list[ir.Node]:
    """What restores the weights of each product."""
    nodes = patient.nodes("DequantizeLinear")
    return [node for node in nodes if node.inputs[0] is not None and node.inputs[0].const_value]


def _activation(patient: Patient) -> tuple[ir.Node, ir.Node]:
    """What quantises the activations of a product, and what restores them."""
    restored = patient.layer(patient.parts.widen).inputs[0]
    assert restored is not None
    restore = restored.producer()
    assert restore is not None
    assert restore.inputs[0] is not None
    quantise = restore.inputs[0].producer()
    assert quantise is not None
    return quantise, restore


def _scale_activations(patient: Patient, factor: float) -> None:
    for quantise in patient.nodes("QuantizeLinear"):
        ((restore, _),) = quantise.outputs[0].uses()
        for node in (quantise, restore):
            patient.change(node, 1, lambda scale: np.asarray(scale * np.float32(factor)))
