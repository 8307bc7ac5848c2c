"""GELU spelled out, by erf or by tanh: one operator."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from dynexport.graph.edits import drop_unused, put_before, put_in_place
from dynexport.graph.opset import raise_opset
from dynexport.graph.patterns import nodes_of, only_user, producer, scalar, sizes_of
from dynexport.graph.rule import Rule

CLOSE = 1e-3
"""Relative distance of a constant from the one of the formula: half precision rounds them."""


def recognise_gelus(model: ir.Model) -> int:
    """Write x * (1 + erf(x / sqrt 2)) / 2, and its approximation by tanh, as Gelu.

    The factors may stand in any order; returns how often.

    The operator is of opset 20, to which the graph is raised where that changes nothing else.
    """
    found = []
    for node in nodes_of(model, "Erf", "Tanh"):
        source = _under_erf(node) if node.op_type == "Erf" else _under_tanh(node)
        end = None if source is None else _product(node, source)
        if source is not None and end is not None:
            found.append((node, source, end))
    if not found or not raise_opset(model, 20):
        return 0
    for node, source, end in found:
        made = end.outputs[0]
        new = put_before(
            end,
            "Gelu",
            [source],
            {"approximate": "none" if node.op_type == "Erf" else "tanh"},
            name=f"{made.name}/Gelu",
            shape=sizes_of(made),
            dtype=made.dtype,
        )
        put_in_place(made, new)
    drop_unused(model)
    return len(found)


def _is(value: ir.Value | None, number: float) -> bool:
    held = scalar(value)
    return held is not None and math.isclose(held, number, rel_tol=CLOSE)


def _times(value: ir.Value | None, number: float) -> ir.Value | None:
    """What was multiplied by a number, or divided by its inverse, to give a value."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return None
    if node.op_type == "Div":
        return node.inputs[0] if _is(node.inputs[1], 1 / number) else None
    for place in (0, 1):
        if _is(node.inputs[1 - place], number):
            return node.inputs[place]
    return None


def _other(node: ir.Node | None, value: Any) -> ir.Value | None:
    """The second of a node's two inputs, whichever place the first has."""
    if node is None or value not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _under_erf(node: ir.Node) -> ir.Value | None:
    return _times(node.inputs[0], 1 / math.sqrt(2))


def _under_tanh(node: ir.Node) -> ir.Value | None:
    """x of tanh(sqrt(2 / pi) * (x + 0.044715 x^3))."""
    total = producer(_times(node.inputs[0], math.sqrt(2 / math.pi)), "Add")
    for place in (0, 1) if total is not None else ():
        assert total is not None
        source, cube = total.inputs[place], _times(total.inputs[1 - place], 0.044715)
        if source is not None and _is_cube(cube, source):
            return source
    return None


def _is_cube(value: ir.Value | None, source: ir.Value) -> bool:
    power = producer(value, "Pow")
    if power is not None:
        return power.inputs[0] is source and _is(power.inputs[1], 3.0)
    outer = producer(value, "Mul")
    square = producer(_other(outer, source), "Mul", "Pow")
    if square is None:
        return False
    if square.op_type == "Pow":
        return square.inputs[0] is source and _is(square.inputs[1], 2.0)
    return list(square.inputs) == [source, source]


def _product(node: ir.Node, source: ir.Value) -> ir.Node | None:
    """The node that ends the product of x, one half, and one more than what a node gives."""
    plus = only_user(node.outputs[0])
    if plus is None or plus.op_type != "Add" or not _is(_other(plus, node.outputs[0]), 1.0):
        return None
    end, needed = plus, {"half", "source"}
    while needed:
        value = end.outputs[0]
        user = only_user(value)
        if user is None or user.op_type not in ("Mul", "Div"):
            return None
        if user.op_type == "Div":
            factors = {"half"} if user.inputs[0] is value and _is(user.inputs[1], 2.0) else None
        else:
            factors = _factors(_other(user, value), source)
        if factors is None or not factors <= needed:
            return None
        needed, end = needed - factors, user
    return end


def _factors(value: ir.Value | None, source: ir.Value) -> set[str] | None:
    if value is source:
        return {"source"}
    if _is(value, 0.5):
        return {"half"}
    return {"half", "source"} if _times(value, 0.5) is source else None


RULE = Rule("gelu", "spelled GELUs made one operator", apply=recognise_gelus)
