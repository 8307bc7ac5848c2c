"""A graph as rules read it that say what TensorRT will make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from dynexport.graph.folding import fold_sizes
from dynexport.graph.follow import follow_shapes
from dynexport.graph.inputs import reason_to_leave
from dynexport.graph.patterns import has_branches, is_fixed, is_standard

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
class View:
    """A graph with what can be told of it before it runs.

    nodes        in the order they run, those of subgraphs behind the node that holds them
    place        of each node among them
    known        values that are the same whatever is fed: constants, and what is computed of them
    fed          values that depend on what is in the inputs, and not on their shapes alone
    optimizable  whether `optimize` takes such a graph
    """

    model: ir.Model
    nodes: tuple[ir.Node, ...]
    place: Mapping[ir.Node, int]
    known: frozenset[ir.Value]
    fed: frozenset[ir.Value]
    optimizable: bool

    @classmethod
    def of(cls, model: ir.Model) -> View:
        """Look at a graph; it is left as it is, its shapes are inferred on a copy."""
        model = model.clone()
        optimizable = not reason_to_leave(model)
        if model.functions:
            InlinePass()(model)
        for value in [value for value in model.graph.inputs if value.is_initializer()]:
            model.graph.inputs.remove(value)  # what may be fed, and as a rule is not
        if optimizable:
            model, optimizable = _folded(model)
        follow_shapes(model, strict=False)  # a rule is silent about a size it cannot know
        nodes = tuple(ir.traversal.RecursiveGraphIterator(model.graph))
        known: set[ir.Value] = set(model.graph.initializers.values())
        fed: set[ir.Value] = set(model.graph.inputs) - known
        for node in nodes:
            inputs = [value for value in node.inputs if value is not None]
            if _same_each_run(node, inputs, known):
                known.update(node.outputs)
            elif node.op_type not in SHAPES and (
                has_branches(node) or any(value in fed for value in inputs)
            ):
                fed.update(node.outputs)
        place = {node: number for number, node in enumerate(nodes)}
        return cls(model, nodes, place, frozenset(known), frozenset(fed), optimizable)

    def all(self, *operators: str) -> list[ir.Node]:
        """Nodes of these ONNX operators."""
        return [n for n in self.nodes if n.op_type in operators and is_standard(n)]

    def varies(self, value: ir.Value | None) -> bool:
        """Whether a value is computed anew at each run."""
        return value is not None and value not in self.known

    def fix(self, change: str, node: ir.Node, *, rewritten: bool) -> str:
        """What to change about a node, by hand; or by `dynexport optimize`, if it is rewritten."""
        by_us = rewritten and self.optimizable and node.graph is self.model.graph
        return f"{change}, or run dynexport optimize" if by_us else change


def _folded(model: ir.Model) -> tuple[ir.Model, bool]:
    """A copy as rules see it that `optimize` applies, and whether it came to that."""
    copy = model.clone()
    try:
        fold_sizes(copy)
    except Exception:  # a graph unlike those it was written for
        return model, False
    return copy, True


def _same_each_run(node: ir.Node, inputs: list[ir.Value], known: set[ir.Value]) -> bool:
    if has_branches(node) or node.op_type in RANDOM:
        return False
    if node.op_type in SHAPES and all(is_fixed(value) for value in inputs):
        return True
    for value in inputs:  # of a subgraph, constants are met where they are used
        if value.is_initializer():
            known.add(value)
    return all(value in known for value in inputs)
