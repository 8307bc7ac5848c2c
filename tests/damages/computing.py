"""Damages to what is computed: products, attention, norms, residuals, the ends of the graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from damages.surgery import Array, Patient


def weigh_two_per_cent_more(patient: Patient) -> None:
    patient.change(patient.layer(patient.parts.widen), 1, lambda weights: 1.02 * weights)


def weigh_every_narrow_layer_five_per_cent_more(patient: Patient) -> None:
    """Every MLP's second Linear, in all blocks."""
    module = patient.parts.narrow.rpartition(".")[2]
    kinds = tuple(f".{module}/{kind}" for kind in ("MatMul", "Gemm"))
    narrow = [node for node in patient.model.graph if str(node.name).endswith(kinds)]
    assert len(narrow) > 1
    for node in narrow:
        patient.change(node, 1, lambda weights: np.asarray(np.float32(1.05) * weights))


def zero_a_third_of_a_projection(patient: Patient) -> None:
    """A third of what attention found is lost on its way back."""

    def change(weights: Array) -> Array:
        weights[: len(weights) // 3] = 0.0
        return weights

    patient.change(patient.layer(patient.parts.square), 1, change)


def give_infinity(patient: Patient) -> None:
    """One logit of every image is infinite."""
    (logits,) = (end for end in patient.model.graph.outputs if end.name == "logits")
    assert logits.shape is not None
    one = np.zeros(int(logits.shape[1]))  # type: ignore[arg-type]
    one[0] = np.inf
    patient.insert(logits, "Add", [logits, patient.constant(one, logits)])


def transpose_a_square_weight(patient: Patient) -> None:
    patient.change(patient.layer(patient.parts.square), 1, np.transpose)


def zero_a_row(patient: Patient) -> None:
    """One input of a Linear is not connected."""
    patient.change(patient.layer(patient.parts.widen), 1, _with_row(5, 0.0))


def spoil_one_weight(patient: Patient) -> None:
    """One weight is not a number."""
    patient.change(patient.layer(patient.parts.widen), 1, _with_row(5, np.nan))


def overflow_one_weight(patient: Patient) -> None:
    """One row of weights was too large for its type, and is infinite."""
    patient.change(patient.layer(patient.parts.widen), 1, _with_row(5, np.inf))


def drop_a_bias(patient: Patient) -> None:
    patient.change(*patient.bias(patient.parts.widen), np.zeros_like)


def add_a_bias_twice(patient: Patient) -> None:
    patient.change(*patient.bias(patient.parts.widen), lambda bias: 2 * bias)


def scale_a_layer_twice(patient: Patient) -> None:
    """A layer scale of 0.4, the tiny models' mean, is folded in a second time."""
    patient.change(patient.layer(patient.parts.narrow), 1, lambda weights: 0.4 * weights)
    patient.change(*patient.bias(patient.parts.narrow), lambda bias: 0.4 * bias)


def forget_to_halve_a_residual(patient: Patient) -> None:
    patient.change(patient.layer(patient.parts.narrow), 1, lambda weights: 2 * weights)
    patient.change(*patient.bias(patient.parts.narrow), lambda bias: 2 * bias)


def forget_a_residual(patient: Patient) -> None:
    """The MLP's result is not added to what went into it."""
    added = patient.nodes("Add", f"{patient.parts.block}/")[-1]
    patient.insert(added.outputs[0], "Identity", [added.inputs[1]])


def attend_without_scale(patient: Patient) -> None:
    _scale_attention(patient, np.array(4.0))


def attend_with_half_the_scale(patient: Patient) -> None:
    """Query and key were both scaled."""
    _scale_attention(patient, np.array(0.25))


def misscale_one_head(patient: Patient) -> None:
    """One of two heads attends twice as sharply."""
    _scale_attention(patient, np.array([1.0, 2.0]).reshape(2, 1, 1))


def swap_query_and_key(patient: Patient) -> None:
    """Attention from each token to another is the other's to it."""
    scores = _scores(patient)
    assert scores.shape is not None
    *outer, rows, columns = range(len(scores.shape))
    patient.insert(scores, "Transpose", [scores], {"perm": [*outer, columns, rows]})


def normalise_attention_by_keys(patient: Patient) -> None:
    """Softmax over the wrong axis."""
    _softmax(patient).attributes["axis"] = ir.AttrInt64("axis", -2)


def normalise_with_large_epsilon(patient: Patient) -> None:
    """Every LayerNorm's epsilon is 1e-3."""
    for node in patient.nodes("LayerNormalization"):
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def normalise_step_by_step(patient: Patient) -> None:
    """LayerNorms are made of single operators, each of which rounds to the graph's precision."""
    for norm in patient.nodes("LayerNormalization"):
        x, scale = norm.inputs[0], norm.inputs[1]
        axis = patient.constant(np.array([-1]))
        epsilon = patient.constant(norm.attributes["epsilon"].as_float(), x)
        mean = ir.node("ReduceMean", [x, axis])
        centred = ir.node("Sub", [x, mean.outputs[0]])
        square = ir.node("Mul", [centred.outputs[0]] * 2)
        variance = ir.node("ReduceMean", [square.outputs[0], axis])
        room = ir.node("Add", [variance.outputs[0], epsilon])
        deviation = ir.node("Sqrt", room.outputs)
        ratio = ir.node("Div", [centred.outputs[0], deviation.outputs[0]])
        nodes = [mean, centred, square, variance, room, deviation, ratio]
        nodes.append(ir.node("Mul", [ratio.outputs[0], scale]))
        if len(norm.inputs) > 2:
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], norm.inputs[2]]))
        patient.substitute(norm.outputs[0], nodes, nodes[-1].outputs[0])


def weigh_the_head_two_per_cent_more(patient: Patient) -> None:
    patient.change(patient.layer("head"), 1, lambda weights: 1.02 * weights)


def swap_scale_and_offset(patient: Patient) -> None:
    norm = patient.norm()
    patient.swap((norm, 1), (norm, 2))


def forget_an_offset(patient: Patient) -> None:
    patient.change(patient.norm(), 2, np.zeros_like)


def round_gelu_by_tanh(patient: Patient) -> None:
    """Every GELU is the one by tanh."""
    for node in patient.nodes("Gelu"):
        node.attributes["approximate"] = ir.AttrString("approximate", "tanh")


def use_relu(patient: Patient) -> None:
    """One block's GELU is a ReLU."""
    gelu = patient.nodes("Gelu", patient.parts.block)[0]
    patient.insert(gelu.outputs[0], "Relu", [gelu.inputs[0]])


def average_the_auxiliary_head(patient: Patient) -> None:
    best = patient.node("ReduceMax")
    patient.insert(best.outputs[0], "ReduceMean", list(best.inputs), {"keepdims": 0})


def weigh_the_auxiliary_head_fully(patient: Patient) -> None:
    patient.change(patient.node("Mul"), 1, np.ones_like)


def let_the_auxiliary_head_see_the_class_token(patient: Patient) -> None:
    patient.change(patient.node("Slice"), 1, np.zeros_like)


def forget_the_shift(patient: Patient) -> None:
    """A shifted block takes its windows, and puts them back, as the one before it."""
    shifted = patient.nodes("Gather", "layers.2.blocks.3.attn")
    plain = patient.nodes("Gather", "layers.2.blocks.2.attn")
    for node, other in zip(shifted, plain, strict=True):
        node.replace_input_with(1, other.inputs[1])


def forget_the_shift_mask(patient: Patient) -> None:
    """Windows attend across the edges that the shift brought together."""
    add = patient.node("layers.2.blocks.3.attn/Add")
    patient.change(add, 1, lambda bias: np.where(bias < -50, bias + 100, bias))


def forget_relative_positions(patient: Patient) -> None:
    patient.change(patient.node(f"{patient.parts.attention}/Add"), 1, np.zeros_like)


def convolve_one_pixel_earlier(patient: Patient) -> None:
    """What a convolution pads stands on the wrong side."""
    node = patient.layer(patient.parts.convolution)
    top, left, bottom, right = node.attributes["pads"].as_ints()
    pads = [top + 1, left + 1, max(0, bottom - 1), max(0, right - 1)]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def normalise_images_twice(patient: Patient) -> None:
    """Mean and deviation are in the graph as well."""
    images = patient.model.graph.inputs[0]
    steps = patient.facts.preprocessing
    mean, deviation = (np.reshape(x, (1, 3, 1, 1)) for x in (steps.mean, steps.std))
    centred = patient.insert(images, "Sub", [images, patient.constant(mean, images)])
    patient.insert(centred, "Div", [centred, patient.constant(deviation, images)])


def take_blue_for_red(patient: Patient) -> None:
    images = patient.model.graph.inputs[0]
    order = patient.constant(np.array([2, 1, 0]))
    patient.insert(images, "Gather", [images, order], {"axis": 1})


def roll_the_classes(patient: Patient) -> None:
    """Classes are counted from one."""
    logits = patient.model.graph.outputs[0]
    order = patient.constant(np.roll(np.arange(10), 1))
    patient.insert(logits, "Gather", [logits, order], {"axis": 1})


def give_probabilities(patient: Patient) -> None:
    logits = patient.model.graph.outputs[0]
    patient.insert(logits, "Softmax", [logits], {"axis": -1})


def lose_the_last_class(patient: Patient) -> None:
    logits = patient.model.graph.outputs[0]
    first = patient.constant(np.arange(9))
    patient.insert(logits, "Gather", [logits, first], {"axis": 1}).shape = ir.Shape(["batch", 9])


def answer_for_the_next_image(patient: Patient) -> None:
    """Answers come back in another order than the images of the batch."""
    logits = patient.model.graph.outputs[0]
    ends = [patient.constant(np.array([number])) for number in (-1, -(2**62), 0)]
    patient.insert(logits, "Slice", [logits, ends[0], ends[1], ends[2], ends[0]])


def pass_through_a_large_value(patient: Patient) -> None:
    """A value is scaled beyond half precision's range and back."""
    value = patient.layer(patient.parts.widen).outputs[0]
    large = patient.insert(value, "Mul", [value, patient.constant(6e4, value)])
    patient.insert(large, "Mul", [large, patient.constant(1 / 6e4, value)])


def _with_row(row: int, number: float) -> Callable[[Array], Array]:
    def change(weights: Array) -> Array:
        weights[row] = number
        return weights

    return change


def _softmax(patient: Patient) -> ir.Node:
    return patient.nodes("Softmax", f"{patient.parts.attention}/")[0]


def _scores(patient: Patient) -> ir.Value:
    """The products of queries and keys, (..., heads, T, T)."""
    return patient.node(f"{patient.parts.attention}/MatMul").outputs[0]


def _scale_attention(patient: Patient, factor: Array) -> None:
    scores = _scores(patient)
    patient.insert(scores, "Mul", [scores, patient.constant(factor, scores)])
