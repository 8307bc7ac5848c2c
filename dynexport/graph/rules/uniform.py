"""Values that hold one number throughout: the policy of a pruned model is ones, whoever is left."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dynexport.graph.constants import add_constant
from dynexport.graph.edits import drop_unused, put_in_place
from dynexport.graph.patterns import constant, integers, is_standard, nodes_of, sizes_of
from dynexport.graph.rule import Rule
from dynexport.graph.sizes import learn_sizes

MOVES = frozenset(
    {
        *("Cast", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"),
        *("Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators that give of such a value one that holds the same number."""


def simplify_uniform(model: ir.Model) -> int:
    """Write the number in the place of such a value where it is added or multiplied.

    And nothing where that changes nothing; returns how often.
    """
    learn_sizes(model)
    held: dict[ir.Value, float] = {}
    for node in model.graph:
        number = _number_given(node, held)
        if number is not None:
            held[node.outputs[0]] = number
    simplified = sum(
        _simplify(model, node, held) for node in nodes_of(model, "Mul", "Div", "Add", "Sub")
    )
    if simplified:
        drop_unused(model)
    return simplified


def _number_given(node: ir.Node, held: dict[ir.Value, float]) -> float | None:
    """The number a node gives throughout."""
    if not is_standard(node) or not node.inputs or len(node.outputs) != 1:
        return None
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return 0.0 if fill is None else float(fill.as_tensor().numpy().item())
    number = _held(node.inputs[0], held)
    if number is None or node.op_type in MOVES:
        return number
    if node.op_type == "ReduceSum" and number == 1.0:  # a sum of ones is exact
        sizes = sizes_of(node.inputs[0]) or []
        axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
        summed = [sizes[axis] for axis in axes or () if -len(sizes) <= axis < len(sizes)]
        if summed and all(isinstance(size, int) for size in summed):
            return float(np.prod([size for size in summed if isinstance(size, int)]))
    return None


def _held(value: ir.Value | None, held: dict[ir.Value, float]) -> float | None:
    if value is None or value in held:
        return None if value is None else held[value]
    array = constant(value)
    if array is None or not array.size or array.dtype.kind != "f":
        return None
    first = array.flat[0]
    return float(first) if np.all(array == first) else None


def _simplify(model: ir.Model, node: ir.Node, held: dict[ir.Value, float]) -> bool:
    made = node.outputs[0]
    sizes = sizes_of(made)
    commutes = node.op_type in ("Mul", "Add")
    for place in (1, 0) if commutes else (1,):
        value, other = node.inputs[place], node.inputs[1 - place]
        number = _held(value, held)
        if number is None or value is None or made.dtype is None:
            continue
        if sizes is None or None in sizes or sizes_of(other) != sizes or other is None:
            continue  # it would broadcast
        neutral = 1.0 if node.op_type in ("Mul", "Div") else 0.0
        if number == neutral:
            put_in_place(made, other)
            return True
        if value.producer() is None or constant(value) is not None:
            continue  # stored already: nothing is computed for it
        name = f"{made.name}/number"
        array = np.asarray(number, dtype=made.dtype.numpy())
        node.replace_input_with(place, add_constant(model, name, array))
        return True
    return False


RULE = Rule(
    "uniform", "sums and products with one number throughout folded", apply=simplify_uniform
)
