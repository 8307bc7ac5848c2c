"""A batch that is open in name only: somewhere in the graph stands the size it was traced with."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.patterns import axis_of, integers, is_standard, label, sizes_of
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.size_arithmetic import Size, product_of
from dynexport.graph.view import View

ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Where", "Equal", "Greater", "Less")


def find_baked_batches(view: View) -> Iterator[Finding]:
    """The first node that holds to the batch the model was traced with."""
    found = baked_batch(view)
    if found is not None:
        node, size = found
        what = (
            f"the batch is open in name only: this {node.op_type} is of a batch of {size}, so the "
            f"file runs at batch {size} alone"
        )
        change = f"export it with no number made of x.shape[0] in it, or declare batch {size}"
        fix = view.fix(change, node, rewritten=True)
        yield Finding("baked-batch", "refused", label(node), what, fix)


def baked_batch(view: View) -> tuple[ir.Node, int] | None:
    """The first node that cannot follow a batch left open, and the batch it was traced with."""
    inputs = [value for value in view.model.graph.inputs if not value.is_initializer()]
    batch = (sizes_of(inputs[0]) or [None])[0] if len(inputs) == 1 else None
    if not isinstance(batch, str):
        return None
    for node in view.nodes:
        size = _held_to(node, batch) if is_standard(node) else None
        if size:
            return node, size
    return None


def _held_to(node: ir.Node, batch: str) -> int | None:
    """The batch a node is made for, though what it is given has one left open."""
    shapes = [sizes_of(value) for value in node.inputs]
    if node.op_type == "Reshape":
        return _reshaped_to(shapes[0], integers(node.inputs[1]), batch)
    if node.op_type == "Concat" and axis_of(node, node.inputs[0], 0) != 0:
        return _beside_open([shape[0] if shape else None for shape in shapes], batch, least=1)
    if node.op_type in ELEMENTWISE:
        rank = max((len(shape or ()) for shape in shapes), default=0)
        first = [shape[0] if shape and len(shape) == rank else None for shape in shapes]
        return _beside_open(first, batch, least=2)  # one for all is meant
    if node.op_type == "GatherElements" and axis_of(node, node.inputs[0], 0) != 0:
        return _beside_open([shape[0] if shape else None for shape in shapes], batch, least=1)
    return None


def _reshaped_to(sizes: list[Size] | None, target: list[int] | None, batch: str) -> int | None:
    """Of sizes with an open batch to numbers alone: the batch that makes them as many."""
    if sizes is None or sizes[:1] != [batch] or not target or min(target) < 1:
        return None
    each, given = product_of(sizes[1:]), product_of(list(target))
    if not isinstance(each, int) or not isinstance(given, int) or not each or given % each:
        return None
    return given // each


def _beside_open(first: list[Size], batch: str, least: int) -> int | None:
    """The number that stands where another input has the open batch."""
    numbers = [size for size in first if isinstance(size, int) and size >= least]
    return numbers[0] if batch in first and numbers else None


RULE = Rule("baked-batch", "a batch open in name only", find_baked_batches)
