"""A later opset for a graph whose operators mean there what they mean now."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from dynexport.errors import InputError
from dynexport.graph.constants import add_constant
from dynexport.graph.patterns import is_standard

OPSETS = (17, 18, 19, 20, 21, 22, 23)
"""What files may be of. 17 brought LayerNormalization; newer ones than `USUAL` change nothing these
graphs use."""

USUAL = 20
"""What files are of unless asked: it brought Gelu. Graphs are exported to it or a later one, and
lowered from there; see `dynexport.graph.older_opset`."""

IR_VERSIONS = {
    opset: version
    for _, version, opset, *_ in reversed(onnx.helper.VERSION_TABLE)
    if version >= 8  # that brought functions
}
"""By opset, the version of the file format that came with it."""

OLDEST = 13
"""Where axes of Squeeze and Unsqueeze became inputs and Softmax got its meaning of today."""

ALIKE = frozenset(
    {
        *("Add", "AveragePool", "BatchNormalization", "Cast", "Constant", "ConstantOfShape"),
        *("CumSum", "DequantizeLinear", "Div", "Equal", "GreaterOrEqual", "Identity", "If"),
        *("IsInf", "IsNaN", "LeakyRelu", "LessOrEqual", "Loop", "Mul", "PRelu", "Pad", "Pow"),
        *("QuantizeLinear", "Relu", "Reshape", "Scan", "ScatterElements", "ScatterND", "Shape"),
        *("Size", "Sub", "Where"),
    }
)
"""Operators whose later versions, up to opset 20, take more types or options and mean the same."""

REDUCTIONS = frozenset(
    {
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
    }
)
"""Their axes became an input in opset 18."""


def require_opset(opset: int) -> None:
    """InputError unless graphs are exported to this opset."""
    if opset not in OPSETS:
        choices = ", ".join(map(str, OPSETS))
        raise InputError(f"opset {opset} is not supported: choose from {choices}")


def set_opset(model: ir.Model, opset: int) -> None:
    """Say which opset a graph is of; its nodes must be of it already.

    And the version of the file format that came with it, as old runtimes refuse a later one.
    """
    for graph in (model.graph, *model.graph.subgraphs()):
        graph.opset_imports[""] = opset
    model.opset_imports[""] = opset
    model.ir_version = IR_VERSIONS[opset]


def raise_opset(model: ir.Model, to: int) -> bool:
    """Whether a graph now is of opset ``to`` or a later one.

    Where an operator changed in between in a way not known here, the graph stays as it is.

    onnx.version_converter was tried: it refuses axes that are computed, and takes and gives the
    whole file as bytes, 2 GB at most.
    """
    now = model.opset_imports.get("", 0)
    if now >= to or not can_raise(model, to):
        return now >= to
    for node in _standard_nodes(model):
        if now < 18 <= to and node.op_type in REDUCTIONS:
            _axes_to_input(model, node)
        if now < 18 <= to and node.op_type == "Split" and len(node.inputs) < 2:
            node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
    version = model.ir_version
    set_opset(model, to)
    model.ir_version = max(version, model.ir_version)  # it may hold what came with a later one
    return True


def can_raise(model: ir.Model, to: int) -> bool:
    """Whether `raise_opset` finds, or makes, a graph of opset ``to`` or a later one."""
    now = model.opset_imports.get("", 0)
    if now >= to:
        return True
    known = now >= OLDEST and not model.functions
    return known and all(_goes_on(node, now, to) for node in _standard_nodes(model))


def _standard_nodes(model: ir.Model) -> list[ir.Node]:
    return [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if is_standard(n)]


def _goes_on(node: ir.Node, now: int, to: int) -> bool:
    """Whether a node can be written in a later opset."""
    known = node.op_type in ALIKE or node.op_type in REDUCTIONS or node.op_type == "Split"
    return known or means_the_same(node, now, to)


def means_the_same(node: ir.Node, now: int, to: int) -> bool:
    """Whether ONNX defines an operator once for both opsets."""
    try:
        versions = {onnx.defs.get_schema(node.op_type, n, "").since_version for n in (now, to)}
    except onnx.defs.SchemaError:
        return False
    return len(versions) == 1


def _axes_to_input(model: ir.Model, node: ir.Node) -> None:
    axes = node.attributes.pop("axes", None)
    if axes is not None:
        array = np.asarray(axes.as_ints(), dtype=np.int64)
        stored = add_constant(model, f"{node.outputs[0].name}/axes", array)
        node.resize_inputs(2)
        node.replace_input_with(1, stored)
