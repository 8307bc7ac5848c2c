"""Two classes that are only ranked by: the order of a softmax is that of their difference."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.graph.constants import add_constant, int64_constant
from dynexport.graph.edits import drop_unused, put_before, put_in_place
from dynexport.graph.patterns import (
    axis_of,
    constant,
    integers,
    is_standard,
    nodes_of,
    only_user,
    producer,
    sizes_of,
)
from dynexport.graph.rule import Rule
from dynexport.graph.sizes import learn_sizes

MOVES = frozenset(
    {"Flatten", "Gather", "Identity", "Neg", "Reshape", "Slice", "Squeeze", "Transpose"}
) | {"Unsqueeze"}
"""Operators that leave the order of what they are given in first place as it is, or turn it."""


def rank_logits(model: ir.Model) -> int:
    """Rank by the difference of two logits where a softmax over them is read for a ranking alone.

    Of the softmax one class is read; returns how often.

    log p = -log(1 + exp(-difference)) rises with it, so the order is the same but where the softmax
    rounds two scores to one. Where a Linear gives the two logits it gives their difference instead.
    """
    learn_sizes(model)
    dropped = 0
    for node in nodes_of(model, "LogSoftmax", "Softmax"):
        sizes = sizes_of(node.inputs[0])
        last = axis_of(node, node.inputs[0])
        pick = only_user(node.outputs[0])
        if sizes is None or sizes[-1] != 2 or last != len(sizes) - 1 or pick is None:
            continue
        place = _picked(pick, last)
        if place is None or not _only_ranked(pick.outputs[0]):
            continue
        squeezed = len(sizes_of(pick.outputs[0]) or sizes) < len(sizes)
        difference = _linear_difference(model, node, place, sizes)
        if difference is None:
            difference = _difference(model, node, place, sizes, squeezed)
        elif squeezed:
            difference = put_before(
                pick,
                "Squeeze",
                [difference, int64_constant(model, [-1])],
                name=f"{pick.outputs[0].name}/score",
                shape=sizes[:-1],
                dtype=difference.dtype,
            )
        put_in_place(pick.outputs[0], difference)
        dropped += 1
    if dropped:
        drop_unused(model)
    return dropped


def _picked(node: ir.Node, last: int) -> int | None:
    """Which of two classes a node reads, 0 or 1; None where it reads something else."""
    if node.op_type == "Gather" and axis_of(node, node.inputs[0], 0) == last:
        found = integers(node.inputs[1])
        scalar = found is not None and len(found) == 1 and len(sizes_of(node.inputs[1]) or ()) < 2
        return found[0] % 2 if scalar and found and -2 <= found[0] < 2 else None
    if node.op_type == "Slice" and len(node.inputs) >= 4:
        given = [integers(value) for value in node.inputs[1:]]
        if any(numbers is None or len(numbers) != 1 for numbers in given):
            return None
        (start, end, axis), step = (numbers[0] for numbers in given[:3] if numbers), given[3:]
        if axis % (last + 1) != last or (step and step[0] != [1]):
            return None
        rows = list(range(2))[start:end]
        return rows[0] if len(rows) == 1 else None
    return None


def _only_ranked(value: ir.Value) -> bool:
    """Whether nothing is read of a value but in which order its elements stand."""
    if value.is_graph_output() or not value.uses():
        return False
    for use in value.uses():
        node = use.node
        if not is_standard(node) or use.idx != 0:
            return False
        if node.op_type == "TopK":
            best = node.outputs[0]
            if best.uses() or best.is_graph_output():
                return False
        elif node.op_type not in MOVES or not _only_ranked(node.outputs[0]):
            return False
    return True


def _linear_difference(
    model: ir.Model, node: ir.Node, place: int, sizes: list[int | str | None]
) -> ir.Value | None:
    """What the Linear before gives once its two columns are one: theirs, subtracted."""
    logits = node.inputs[0]
    gemm = producer(logits, "Gemm")
    if gemm is not None:
        return _gemm_difference(model, gemm, node, place, sizes)
    add = producer(logits, "Add")
    if add is not None and only_user(add.outputs[0]) is not node:
        return None
    parts = [logits] if add is None else list(add.inputs)
    products = [producer(part, "MatMul") for part in parts]
    product = next((found for found in products if found is not None), None)
    if product is None:
        return None
    weight = constant(product.inputs[1])
    bias = next((constant(p) for p, found in zip(parts, products, strict=True) if not found), None)
    reader = add or node
    if only_user(product.outputs[0]) is not reader or weight is None or weight.ndim != 2:
        return None
    if add is not None and (bias is None or bias.shape[-1:] != (2,) or bias.size != 2):
        return None
    assert logits is not None
    name, shape, dtype = f"{logits.name}/difference", [*sizes[:-1], 1], logits.dtype
    column = add_constant(model, f"{name}/weight", _subtracted(weight, place))
    made = put_before(
        node,
        "MatMul",
        [product.inputs[0], column],
        name=f"{name}/product",
        shape=shape,
        dtype=dtype,
    )
    if bias is None:
        return made
    offset = add_constant(model, f"{name}/bias", _subtracted(bias.reshape(2), place))
    return put_before(node, "Add", [made, offset], name=name, shape=shape, dtype=dtype)


def _gemm_difference(
    model: ir.Model, gemm: ir.Node, node: ir.Node, place: int, sizes: list[int | str | None]
) -> ir.Value | None:
    weight = constant(gemm.inputs[1])
    bias = constant(gemm.inputs[2]) if len(gemm.inputs) > 2 else None
    if only_user(gemm.outputs[0]) is not node or weight is None or weight.ndim != 2:
        return None
    if len(gemm.inputs) > 2 and (bias is None or bias.shape != (2,)):
        return None
    across = bool(gemm.attributes.get_int("transB", 0))
    column = _subtracted(weight.T if across else weight, place)
    name = f"{gemm.outputs[0].name}/difference"
    inputs = [gemm.inputs[0], add_constant(model, f"{name}/weight", column)]
    if bias is not None:
        inputs.append(add_constant(model, f"{name}/bias", _subtracted(bias, place)))
    kept = {key: attr for key, attr in gemm.attributes.items() if key != "transB"}
    return put_before(
        node, "Gemm", inputs, kept, name=name, shape=[*sizes[:-1], 1], dtype=gemm.outputs[0].dtype
    )


def _subtracted(array: NDArray[np.floating], place: int) -> NDArray[np.floating]:
    """Of two columns the one picked less the other."""
    wide = array.astype(np.float64)
    column = wide[..., place : place + 1] - wide[..., 1 - place : 2 - place]
    return column.astype(array.dtype)


def _difference(
    model: ir.Model, node: ir.Node, place: int, sizes: list[int | str | None], squeezed: bool
) -> ir.Value:
    """The difference of two logits that come from anywhere, as the class was picked."""
    logits, shape = node.inputs[0], sizes[:-1] if squeezed else [*sizes[:-1], 1]
    assert logits is not None
    name = f"{node.outputs[0].name}/difference"
    columns = [
        put_before(
            node,
            "Gather",
            [logits, int64_constant(model, column if squeezed else [column])],
            {"axis": -1},
            name=f"{name}/class_{column}",
            shape=shape,
            dtype=logits.dtype,
        )
        for column in (place, 1 - place)
    ]
    return put_before(node, "Sub", columns, name=name, shape=shape, dtype=logits.dtype)


RULE = Rule("log-softmax", "softmaxes that are only ranked by dropped", apply=rank_logits)
