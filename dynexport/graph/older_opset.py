"""An earlier opset than a graph was exported to, for tools that read no later one."""

from __future__ import annotations

from collections import Counter
from math import pi, sqrt

import numpy as np
import onnx_ir as ir

from dynexport.errors import DynexportError
from dynexport.graph.constants import add_constant, content_of
from dynexport.graph.edits import drop_unused, named_node
from dynexport.graph.names import unique
from dynexport.graph.opset import ALIKE, REDUCTIONS, means_the_same, set_opset
from dynexport.graph.patterns import nodes_of

NUMBERS = {
    "root": sqrt(2.0),
    "one": 1.0,
    "half": 0.5,
    "three": 3.0,
    "cubic": 0.044715,
    "slope": sqrt(2.0 / pi),
}

BY_ERF = (("Div", "root"), ("Erf",), ("Add", "one"), ("Mul", "x"), ("Mul", "half"))
"""x / 2 (1 + erf(x / sqrt 2)): operators, and what each takes beside what the one before gave."""

BY_TANH = (
    *(("Pow", "three"), ("Mul", "cubic"), ("Add", "x"), ("Mul", "slope")),
    *(("Tanh",), ("Add", "one"), ("Mul", "x"), ("Mul", "half")),
)
"""x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""


def lower_opset(model: ir.Model, to: int) -> None:
    """Make of a float32 graph of one opset of `OPSETS` the same of an earlier one.

    A Gelu, which opset 20 brought, becomes the nodes that exporters write and runtimes
    recognise. DynexportError where another operator of it is newer.
    """
    now = model.opset_imports[""]
    if to < 20 <= now:
        _spell_out_gelus(model)
    for node in model.graph:
        if to < 18 <= now and node.op_type in REDUCTIONS:
            _axes_to_attribute(node)
        if to < 18 <= now and node.op_type == "Split":
            node.attributes.pop("num_outputs", None)
        known = {*ALIKE, *REDUCTIONS, "Split"}
        if node.op_type not in known and not means_the_same(node, now, to):
            raise DynexportError(
                f"node {node.name}: opset {to} has no such {node.op_type}: give `opset` {now}"
            )
    set_opset(model, to)
    drop_unused(model)


def _spell_out_gelus(model: ir.Model) -> None:
    """Each step on what the one before gave, in the order in which runtimes look for it."""
    used = Counter(str(node.name) for node in model.graph)
    for gelu in nodes_of(model, "Gelu"):
        x, result = gelu.inputs[0], gelu.outputs[0]
        scope, nodes = str(gelu.name).rpartition("/")[0], []
        value = x
        by_tanh = gelu.attributes.get_string("approximate", "none") == "tanh"
        for operator, *others in BY_TANH if by_tanh else BY_ERF:
            name = unique(f"{scope}/{operator}", used)
            given = [x if other == "x" else _number(model, other) for other in others]
            inputs, shape, dtype = [value, *given], result.shape, result.dtype
            nodes.append(named_node(operator, inputs, name=name, shape=shape, dtype=dtype))
            value = nodes[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(
            model.graph, gelu, [gelu], nodes, [result], nodes[-1].outputs
        )


def _number(model: ir.Model, number: str) -> ir.Value:
    """One constant a graph."""
    name = f"const/gelu_{number}"
    known = model.graph.initializers.get(name)
    return known or add_constant(model, name, np.array(NUMBERS[number], np.float32))


def _axes_to_attribute(node: ir.Node) -> None:
    """Axes were an attribute of a reduction before opset 18."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return
    axes = content_of(node.inputs[1]).tolist()
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes["axes"] = ir.AttrInt64s("axes", axes)
