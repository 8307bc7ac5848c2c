"""A graph as rules read it, and what a rule says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from dynexport.graph.patterns import STANDARD
from dynexport.progress import unheard

Severity = Literal["refused", "inexact", "slow", "risky"]

SEVERITIES: tuple[Severity, ...] = ("refused", "inexact", "slow", "risky")
"""Worst first.

refused  TensorRT builds no engine of it, or `dynexport build` does not ask it to
inexact  it builds, and answers with less precision than the graph was written for, or otherwise
slow     it builds, and is slower than it need be
risky    the TensorRT it was tried with takes it; other versions refuse it or did it wrong
"""

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
SHAPES = ("Shape", "Size")
"""Operators that read the shape of a value, not what is in it."""

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


@dataclass(frozen=True)
class Finding:
    """What a rule says of one node: its name, what is the matter, and what to change."""

    rule: str
    severity: Severity
    node: str
    what: str
    mend: str


@dataclass(frozen=True)
class View:
    """A graph with what can be told of it before it runs.

    nodes  in the order they run, those of subgraphs behind the node that holds them
    place  of each node among them
    known  values that are the same whatever is fed: constants, and what is computed of them
    fed    values that depend on what is in the inputs, and not on their shapes alone
    """

    model: ir.Model
    nodes: tuple[ir.Node, ...]
    place: Mapping[ir.Node, int]
    known: frozenset[ir.Value]
    fed: frozenset[ir.Value]

    @classmethod
    def of(cls, model: ir.Model) -> View:
        """Look at a graph; it is left as it is, its shapes are inferred on a copy."""
        model = model.clone()
        if model.functions:
            InlinePass()(model)
        _infer_shapes(model)
        nodes = tuple(ir.traversal.RecursiveGraphIterator(model.graph))
        known: set[ir.Value] = set(model.graph.initializers.values())
        fed: set[ir.Value] = set(model.graph.inputs) - known
        for node in nodes:
            inputs = [value for value in node.inputs if value is not None]
            if _same_each_run(node, inputs, known):
                known.update(node.outputs)
            elif node.op_type not in SHAPES and (
                _branches(node) or any(value in fed for value in inputs)
            ):
                fed.update(node.outputs)
        place = {node: number for number, node in enumerate(nodes)}
        return cls(model, nodes, place, frozenset(known), frozenset(fed))

    def all(self, *operators: str) -> list[ir.Node]:
        """Nodes of these ONNX operators."""
        return [n for n in self.nodes if n.op_type in operators and n.domain in STANDARD]

    def varies(self, value: ir.Value | None) -> bool:
        """Whether a value is computed anew at each run."""
        return value is not None and value not in self.known


def _infer_shapes(model: ir.Model) -> None:
    """As far as they follow; a rule is silent about a size it cannot know."""
    with unheard(ShapeInferencePass.__module__):  # a traceback where they do not follow
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _same_each_run(node: ir.Node, inputs: list[ir.Value], known: set[ir.Value]) -> bool:
    if _branches(node) or node.op_type in RANDOM:
        return False
    if node.op_type in SHAPES and all(is_fixed(value) for value in inputs):
        return True
    for value in inputs:  # of a subgraph, constants are met where they are used
        if value.is_initializer():
            known.add(value)
    return all(value in known for value in inputs)


def _branches(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def is_fixed(value: ir.Value) -> bool:
    """Whether every dimension of a value is a number."""
    return value.shape is not None and all(isinstance(size, int) for size in value.shape)


def label(node: ir.Node) -> str:
    """What to call a node: its name, or where it has none its operator and first output."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def given_name(node: ir.Node) -> str:
    """What TensorRT calls a node: its name, or one made of its first output."""
    return node.name or f"node_of_{node.outputs[0].name}"


def maker(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that computes a value, if it is of one of these operators."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators else None


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What a constant holds; None where the value is none."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def folded(value: ir.Value | None, opset: int) -> NDArray[Any] | None:
    """What a value holds that is computed of constants and fixed shapes alone.

    TensorRT's parser folds such values too; None for any other.
    """
    array = constant(value)
    node = value.producer() if value is not None and array is None else None
    if value is None or node is None or _branches(node):
        return array
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Shape" and source is not None and source.shape is not None:
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        sizes = list(source.shape)[start:end]
        return np.array(sizes) if all(isinstance(size, int) for size in sizes) else None
    feeds = {str(used.name): folded(used, opset) for used in node.inputs if used is not None}
    if not feeds or any(array is None for array in feeds.values()):
        return None
    try:
        evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": opset})
        outputs: Any = evaluator.run([str(value.name)], feeds)
        return np.asarray(outputs[0])
    except Exception:  # an operator the reference does not know, or knows in another version
        return None


def setting(node: ir.Node, name: str, place: int) -> list[int] | None:
    """Whole numbers an operator takes as an attribute or, in later opsets, as an input.

    None where neither is there, or the input is no constant.
    """
    attribute = node.attributes.get(name)
    if attribute is not None:
        return [int(number) for number in np.ravel(attribute.value)]
    array = constant(node.inputs[place]) if place < len(node.inputs) else None
    return None if array is None else [int(number) for number in np.ravel(array)]


def size_at(value: ir.Value | None, axis: int) -> int | None:
    """Size of a value along an axis, which may count from the end; None where it is not known."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def through(value: ir.Value | None, *operators: str) -> ir.Value | None:
    """The value that nodes of these operators, one after the other, made ``value`` of."""
    while (node := maker(value, *operators)) is not None:
        value = node.inputs[0]
    return value
