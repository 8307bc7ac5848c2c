"""What is known of a graph before it runs: the shape of every value, and what shapes make known.

Shapes are inferred node by node, with ONNX's own rules, from the graph's inputs alone: what a file
says of the values in between may be wrong. A size left open is followed by its name through the
arithmetic exporters write for it, which ONNX's inference gives up on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from dynexport.graph.inference import WHOLE, ask_about, infer_outputs
from dynexport.graph.patterns import constant, has_branches, is_standard, sizes_of
from dynexport.graph.size_arithmetic import PARTLY, SHAPED

FOLDED = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "CumSum", "Div"),
        *("Equal", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND"),
        *("Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod"),
        *("Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "ScatterElements", "ScatterND"),
        *("Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose"),
        *("Unsqueeze", "Where"),
    }
)
"""Operators computed where they are given constants alone; those that quantise stay."""

LARGEST_FOLDED = 1 << 16
"""Elements of a computed constant, unless it is no larger than what it is made of."""


HANDED_OVER = "dynexport/facts"
"""Where a graph carries what is `handed_over` with it."""


@dataclass(frozen=True)
class Facts:
    """What is known of a graph's values before it runs.

    known   constants, and what is computed of them and of fixed sizes
    partly  whole numbers, of which some are names of open sizes, or unknown: arrays of `Size`
    """

    known: dict[ir.Value, NDArray[Any]] = field(default_factory=dict)
    partly: dict[ir.Value, NDArray[Any]] = field(default_factory=dict)
    _stored: dict[ir.Value, NDArray[Any] | None] = field(default_factory=dict)

    def array(self, value: ir.Value | None) -> NDArray[Any] | None:
        """What a value holds, where all of it is known."""
        if value is None or value in self.known:
            return None if value is None else self.known[value]
        if value not in self._stored:  # to read a file's constant takes longer than all else here
            self._stored[value] = constant(value)
        return self._stored[value]

    def numbers(self, value: ir.Value | None) -> NDArray[Any] | None:
        """What a value of whole numbers holds, as far as it is known."""
        if value is None or value in self.partly:
            return None if value is None else self.partly[value]
        array = self.array(value)
        return None if array is None or array.size > 64 else array.astype(object)

    def of_copy(self, model: ir.Model, copy: ir.Model) -> Facts:
        """The same of a copy of the graph, not changed since."""
        there: dict[ir.Value, ir.Value] = {}
        for node, same in zip(model.graph, copy.graph, strict=True):
            there.update(zip(node.outputs, same.outputs, strict=True))
        known, partly = (
            {there[value]: array for value, array in found.items() if value in there}
            for found in (self.known, self.partly)
        )
        return Facts(known, partly)


@contextmanager
def handed_over(model: ir.Model, facts: Facts) -> Iterator[None]:
    """Spare who next asks `learn_sizes` about a graph the work: it would find these."""
    model.meta[HANDED_OVER] = facts
    try:
        yield
    finally:
        model.meta.pop(HANDED_OVER, None)


def learn_sizes(model: ir.Model) -> Facts:
    """Infer the shape of every value anew, and tell what is known of what they hold."""
    handed: Facts | None = model.meta.pop(HANDED_OVER, None)
    if handed is not None:
        return handed
    facts, opset = Facts(), model.opset_imports.get("", 1)
    for place, value in enumerate(model.graph.inputs):
        if value.shape is not None:
            sizes = sizes_of(value) or []
            named = [f"open_{place}_{axis}" if s is None else s for axis, s in enumerate(sizes)]
            value.shape = ir.Shape(named)
    for node in model.graph:
        _learn_node(node, facts, opset)
    return facts


def _learn_node(node: ir.Node, facts: Facts, opset: int) -> None:
    ends = [value for value in node.outputs if value.is_graph_output()]
    told = {value: value.shape for value in ends}
    for value in node.outputs:
        value.shape = None
    if is_standard(node) and not has_branches(node):
        _infer(node, facts, opset)
        _compute(node, facts, opset)
        _follow_open_sizes(node, facts)
    for value, shape in told.items():
        value.shape = _merged(shape, value.shape)


def _merged(told: ir.Shape | None, found: ir.Shape | None) -> ir.Shape | None:
    """What a file says of an output, and what follows where it says nothing."""
    if told is None or found is None or len(told) != len(found):
        return found if told is None else told
    pairs = zip(told, found, strict=True)
    return ir.Shape(
        follows if isinstance(size, ir.SymbolicDim) and size.value is None else size
        for size, follows in pairs
    )


def _follow_open_sizes(node: ir.Node, facts: Facts) -> None:
    """The shape of what is given its shape by arithmetic that ONNX's rules do not follow."""
    rule = SHAPED.get(node.op_type)
    if rule is None:
        return
    made, given = node.outputs[0], [facts.numbers(value) for value in node.inputs]
    own = rule(node, sizes_of(node.inputs[0]), given)
    if own is not None:
        known = sizes_of(made) or own
        if len(known) == len(own):
            pairs = zip(own, known, strict=True)
            made.shape = ir.Shape([a if a is not None else b for a, b in pairs])


def _infer(node: ir.Node, facts: Facts, opset: int) -> None:
    """Shapes and types of a node's outputs by ONNX's rules, where they follow."""
    told = infer_outputs(ask_about(node, opset, facts.array))
    for value, found in zip(node.outputs, told, strict=False):
        if found is not None:
            kind, sizes = found
            value.type = ir.TensorType(ir.DataType(kind))
            if sizes is not None:
                value.shape = ir.Shape(sizes)


def _compute(node: ir.Node, facts: Facts, opset: int) -> None:
    """What a node gives, where that is known before the graph runs."""
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type in PARTLY and len(node.outputs) == 1:
        numbers = _partly(node, facts)
        dtype = node.outputs[0].dtype
        if numbers is not None and dtype in WHOLE:
            if all(isinstance(number, (int, np.integer, np.bool_)) for number in numbers.flat):
                facts.known[node.outputs[0]] = numbers.astype(dtype.numpy())
            else:
                facts.partly[node.outputs[0]] = numbers
            return
    if node.op_type not in FOLDED or not inputs:
        return
    arrays = [facts.array(value) for value in inputs]
    if any(array is None for array in arrays):
        return
    if not _worth_folding(node, [array for array in arrays if array is not None]):
        return
    feeds = {str(v.name): array for v, array in zip(inputs, arrays, strict=True)}
    try:
        evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": opset})
        results: Any = evaluator.run(None, feeds)
    except Exception:  # an operator the reference does not know, or knows in another version
        return
    for value, result in zip(node.outputs, results, strict=True):
        array = np.asarray(result)
        if value.dtype is not None and array.dtype == value.dtype.numpy():
            facts.known[value] = array


def _worth_folding(node: ir.Node, arrays: Sequence[NDArray[Any]]) -> bool:
    made = 0
    for value in node.outputs:
        sizes = sizes_of(value)
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return False
        made += int(np.prod([int(size) for size in sizes if isinstance(size, int)], dtype=float))
    return made <= max(LARGEST_FOLDED, sum(array.size for array in arrays))


def _partly(node: ir.Node, facts: Facts) -> NDArray[Any] | None:
    if node.op_type == "Shape":
        sizes = sizes_of(node.inputs[0])
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        return None if sizes is None else np.array(sizes, dtype=object)[start:end]
    inputs = [facts.numbers(value) for value in node.inputs]
    given = [array for array in inputs if array is not None]
    if len(given) < len(inputs) or not given:
        return None
    try:
        return PARTLY[node.op_type](node, given)
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
        return None  # not said as exporters say it
