"""LayerNorm spelled out in eight operators: one, that half precision does not overflow in.

In half precision TensorRT rounds the mean, the squares and the variance to it, while the
LayerNormalization operator computes all of them in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dynexport.graph.constants import add_constant
from dynexport.graph.edits import drop_unused, put_before, put_in_place
from dynexport.graph.opset import can_raise, raise_opset
from dynexport.graph.patterns import (
    constant,
    label,
    nodes_of,
    only_user,
    producer,
    scalar,
    setting,
    sizes_of,
    through,
)
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.sizes import learn_sizes
from dynexport.graph.view import HALF, View

FLOATS = (ir.DataType.FLOAT, *HALF, ir.DataType.DOUBLE)
OPSET = 17
"""The first with LayerNormalization."""


@dataclass(frozen=True)
class SpelledNorm:
    """A normalisation written out: mean, difference, square, mean, root.

    first     its first node: the mean, or where none is subtracted the square
    variance  the mean of the squares
    root      1 over it, or the root alone; None of an RMSNormalization
    source    what is normalised; None where no mean is subtracted
    epsilon   added under the root; None where it is no constant
    """

    first: ir.Node
    variance: ir.Node
    root: ir.Node
    source: ir.Value | None
    epsilon: float | None


def find_layer_norms(view: View) -> Iterator[Finding]:
    """Normalisation spelled out, but for what is kept in float32 among half precision."""
    typed = any(value.dtype in HALF for value in view.model.graph.initializers.values())
    raised = can_raise(view.model, OPSET)
    for root in view.all("Sqrt", "Pow"):
        norm = _spelled(root)
        if norm is None:
            continue
        inside = norm.first.inputs[0]
        if typed and inside is not None and inside.dtype == ir.DataType.FLOAT:
            continue  # kept in float32 on purpose
        operator = "RMSNormalization" if norm.source is None else "LayerNormalization"
        what = (
            f"{operator} spelled out, from here to {label(root)}: in half precision its squares "
            "overflow from 256 on"
        )
        rewritten = raised and bool(_ends(norm))
        fix = view.fix(_change_by_hand(view, norm), root, rewritten=rewritten)
        yield Finding("layer-norm", "inexact", label(norm.first), what, fix)


def recognise_layer_norms(model: ir.Model) -> int:
    """Write what normalises over the last axis as LayerNormalization; returns how often.

    Mean, difference, its square's mean, plus epsilon, square root, quotient, and where they follow
    a constant scale and offset. The operator is of opset 17, to which the graph is raised.
    """
    learn_sizes(model)
    norms = [norm for root in nodes_of(model, "Sqrt", "Pow") if (norm := _spelled(root))]
    found = [(end, norm) for norm in norms for end in _ends(norm)]
    if not found or not raise_opset(model, OPSET):
        return 0
    for end, norm in found:
        _write(model, end, norm)
    drop_unused(model)
    return len(found)


def _spelled(root: ir.Node) -> SpelledNorm | None:
    """The normalisation that takes this square root, whatever the axes."""
    if root.op_type == "Pow" and scalar(root.inputs[1]) not in (0.5, -0.5):
        return None
    variance, epsilon = producer(root.inputs[0], "ReduceMean"), None
    added = producer(root.inputs[0], "Add")
    for place in (0, 1) if added is not None else ():
        assert added is not None
        if variance is None and (found := producer(added.inputs[place], "ReduceMean")) is not None:
            variance, epsilon = found, scalar(added.inputs[1 - place])
    square = None if variance is None else producer(variance.inputs[0], "Mul", "Pow")
    if variance is None or square is None:
        return None
    base, other = square.inputs[:2]
    if not (scalar(other) == 2.0 if square.op_type == "Pow" else base is other):
        return None
    difference = producer(through(base, "Cast"), "Sub")
    centre = None if difference is None else producer(difference.inputs[1], "ReduceMean")
    if difference is None or centre is None or centre.inputs[0] is not difference.inputs[0]:
        return SpelledNorm(square, variance, root, None, epsilon)
    return SpelledNorm(centre, variance, root, centre.inputs[0], epsilon)


def _ends(norm: SpelledNorm) -> list[ir.Node]:
    """The quotients that end a normalisation which LayerNormalization computes: over the last axis,
    with an epsilon, in one type."""
    source, squared = norm.source, producer(norm.variance.inputs[0], "Mul", "Pow")
    if source is None or source.dtype not in FLOATS or not norm.epsilon or norm.epsilon <= 0:
        return []
    if squared is None or _centred(squared.inputs[0]) is not source or not _is_mean(norm.variance):
        return []
    root = norm.root.outputs[0]
    users = [use.node for use in root.uses()]
    if norm.root.op_type == "Pow" and scalar(norm.root.inputs[1]) == -0.5:
        divided, inverses = [], [root]
    else:
        divided = [node for node in users if node.op_type == "Div" and node.inputs[1] is root]
        inverses = [node.outputs[0] for node in users if _is_inverse(node)]
    ends = [node for node in divided if _centred(node.inputs[0]) is source]
    for inverse in inverses:
        products = [use.node for use in inverse.uses() if use.node.op_type == "Mul"]
        ends += [n for n in products if source in [_centred(value) for value in n.inputs]]
    return ends


def _is_inverse(node: ir.Node) -> bool:
    one_over = node.op_type == "Div" and scalar(node.inputs[0]) == 1.0
    return node.op_type == "Reciprocal" or one_over


def _centred(value: ir.Value | None) -> ir.Value | None:
    """What a value is without its own mean over the last axis."""
    difference = producer(value, "Sub")
    mean = None if difference is None else producer(difference.inputs[1], "ReduceMean")
    if difference is None or mean is None or mean.inputs[0] is not difference.inputs[0]:
        return None
    return difference.inputs[0] if _is_mean(mean) else None


def _is_mean(mean: ir.Node) -> bool:
    """Whether a node gives the mean over the last axis alone, which it keeps."""
    sizes, axes = sizes_of(mean.inputs[0]), setting(mean, "axes", 1)
    if sizes is None or axes is None or len(axes) != 1 or not isinstance(sizes[-1], int):
        return False
    return bool(mean.attributes.get_int("keepdims", 1)) and axes[0] in (-1, len(sizes) - 1)


def _write(model: ir.Model, node: ir.Node, norm: SpelledNorm) -> None:
    """One operator in the place of the pattern that ends in a node, with its scale and offset."""
    made, source = node.outputs[0], norm.source
    channels = (sizes_of(source) or [])[-1]
    assert isinstance(channels, int)
    assert source is not None
    assert source.dtype is not None
    scale, end = _constant_row(node, "Mul", channels)
    offset, end = _constant_row(end, "Add", channels)
    name = f"{made.name}/LayerNormalization"
    rows = [np.ones(channels) if scale is None else scale]
    rows += [] if offset is None else [offset]
    constants = [
        add_constant(model, f"{name}/{kind}", row.astype(source.dtype.numpy()))
        for kind, row in zip(("scale", "offset"), rows, strict=False)
    ]
    new = put_before(
        end,
        "LayerNormalization",
        [source, *constants],
        {"axis": -1, "epsilon": norm.epsilon},
        name=name,
        shape=sizes_of(source),
        dtype=source.dtype,
    )
    put_in_place(end.outputs[0], new)


def _constant_row(node: ir.Node, operator: str, channels: int) -> tuple[np.ndarray | None, ir.Node]:
    """The constant row that what a node gives is next multiplied with or added to, and the node
    that does; or none, and the node itself."""
    user = only_user(node.outputs[0])
    if user is None or user.op_type != operator:
        return None, node
    other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    row = constant(other)
    if row is None or row.shape[-1:] != (channels,) or row.size != channels:
        return None, node
    if sizes_of(user.outputs[0]) != sizes_of(node.outputs[0]):
        return None, node
    return row.reshape(channels), user


def _change_by_hand(view: View, norm: SpelledNorm) -> str:
    if norm.source is None:
        return "export with opset 23 or later, or keep these nodes in float32"
    axes, rank = setting(norm.first, "axes", 1), len(sizes_of(norm.source) or ())
    if axes is not None and rank and rank - 1 not in [axis % rank for axis in axes]:
        return "bring the channels last and normalise them there, by LayerNormalization"
    opset = view.model.opset_imports.get("", 0)
    export = "export nn.LayerNorm itself" if opset >= OPSET else "export with opset 17 or later"
    return f"{export}, so that LayerNormalization is written"


RULE = Rule(
    "layer-norm",
    "spelled LayerNorms made one operator",
    find_layer_norms,
    recognise_layer_norms,
)
