"""Half precision written into the graph: fp16 or bf16, every conversion an explicit Cast.

A strongly typed runtime (TensorRT 11, TensorRT-RTX, TensorRT 10 on request) computes what the
file says. So the file says it: each node works in half or in single precision, and where the two
meet stands one Cast, made once for all who need it; constants are converted, never cast.

What stays in float32 was measured on DeiT, LV-ViT, Swin and ConvNeXt at ratio 0.7 and on the
trained MNIST model's 1,000 test digits (98.2 % right in PyTorch, fp16 and bf16 alike, and the same
ones), with every value rounded that is half (`dynexport.graph.emulation`):

- inputs and outputs of the graph, unless they are asked for in half: for fp16 that changes nothing,
  images are rounded at the first Cast and logits at the last product;
- each top-k of scores, and what leads to nothing else, back to the last product: a score rounded
  to half makes exact ties, which every runtime breaks its own way. The whole predictor in float32
  would swap a third fewer tokens (fp16: in 65 digits, not 98; bf16: in 394, not 558), but its
  products would cost as much again, and no digit's class changes;
- in bf16, whose steps are 0.06 on logits from 8 to 16, what gives the classes, from the last
  product on: else one digit has two best classes, and 8 digits have ties among their best five.
  fp16 has neither, so its head is in half: in float32 it would take a tenth off the logits' error;
- a constant with finite values that half cannot hold, and the nodes that use it: a mask of -1e9.
  Infinities stay what they are. Which values are too large
  only images tell: `dynexport.calibration.overflow` finds their nodes;
- an operator that ONNX does not define in half at the graph's opset: convolutions in bf16 before
  opset 22.

LayerNormalization, Softmax and the residual stream are in half. The first computes in float32
inside (stash_type 1), as runtimes do in a Softmax: to surround both with Casts (49 in place of 5)
changes the error of the logits by noise, up or down (relative, fp16: 1.26e-3 to 1.43e-3; bf16:
5.05e-3 to 4.96e-3), and the digits with swapped tokens by less than a tenth. So does a residual
stream in float32 (33 Casts: 1.23e-3; 4.93e-3), even in bf16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx_ir as ir

from dynexport.errors import ModelFileError
from dynexport.graph.constants import content_of
from dynexport.graph.edits import cast, put_behind
from dynexport.graph.half_places import SINGLE, half_places

Kind = Literal["fp16", "bf16"]
Use = tuple[ir.Node, int]
"""A node and which of its inputs."""

HALF: Mapping[str, ir.DataType] = MappingProxyType(
    {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
)
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
"""Operators that sum so many terms that no two scores come out equal by chance."""


def to_half(
    model: ir.Model,
    kind: Kind,
    *,
    marks: Mapping[str, str] = MappingProxyType({}),
    single: Collection[str] = (),
    half_io: bool = False,
) -> ir.Model:
    """A typed copy of a float32 graph: half precision inside, float32 inputs and outputs.

    marks    the metadata's ``dense_twin``: both ends of every pair get one type, so that the twin
             can be made of the typed graph
    single   names of nodes to keep in float32 beside those the rules find; of values too large,
             `dynexport.calibration.overflow.find_overflow` tells which
    half_io  the graph's floating inputs and outputs are in half too

    Values keep their names; a Cast is called after what it casts (``x/fp16``, ``x/fp32``), and
    what an output is cast from is ``logits/fp16``, or with ``half_io`` ``logits/fp32``.
    ModelFileError if the graph is in half precision already, lacks types or a node of ``single``,
    or if a pair of ``marks`` cannot have one type with ``half_io``.
    """
    require_float32(model)
    typed, dtype = model.clone(), HALF[kind]
    kept = _single_nodes(typed, dtype, single)
    kept |= ranking_nodes(typed, classes=kind == "bf16" and not half_io)
    _agree(typed, marks, kept, half_io)
    halved: set[Use] = set()
    results = [value for value in typed.graph.inputs if half_io and value.dtype == SINGLE]
    for node in typed.graph:
        if node not in kept:
            inputs, outputs = half_places(node, dtype)
            halved.update((node, place) for place in inputs)
            results.extend(node.outputs[place] for place in outputs)
    for value in results:
        value.type = ir.TensorType(dtype)
    order = {node: place for place, node in enumerate(typed.graph)}
    for value in list(_values(typed)):
        if value.is_initializer():
            _convert_constant(typed, value, halved, kind)
        else:
            _cast_where_types_meet(typed, value, halved, kind, order, half_io)
    _require_agreement(typed, marks)
    return typed


def overflowing_constants(model: ir.Model, kind: Kind) -> tuple[str, ...]:
    """Names of the float32 constants with finite values beyond ``kind``, which stay float32."""
    constants = model.graph.initializers.items()
    return tuple(name for name, value in constants if _overflows(value, HALF[kind]))


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def require_float32(model: ir.Model) -> None:
    """ModelFileError where a graph holds values in half precision already."""
    for value in _values(model):
        if value.dtype in HALF.values():
            raise ModelFileError(
                f"the graph is in half precision already ({value.name} is {value.dtype}): "
                "give the float32 file it was made from"
            )
        if value.dtype is None and (value.uses() or value.is_graph_output()):
            raise ModelFileError(
                f"the graph does not say of which type {value.name} is: run ONNX's shape "
                "inference over it, or convert the checkpoint again"
            )


def _single_nodes(model: ir.Model, dtype: ir.DataType, names: Collection[str]) -> set[ir.Node]:
    """The nodes that compute in float32, or in no floating point at all; ModelFileError if one of
    ``names`` is not there."""
    unknown = sorted(set(names) - {str(node.name) for node in model.graph})
    if unknown:
        raise ModelFileError(
            f"the graph has no node {unknown[0]!r} to keep in float32: give names of its nodes, "
            "as `find_overflow` returns them for this graph"
        )
    single = {node for node in model.graph if node.name in names}
    single |= {node for node in model.graph if not any(half_places(node, dtype))}
    for value in model.graph.initializers.values():
        if _overflows(value, dtype):
            single.update(node for node, _ in value.uses())
    return single


def ranking_nodes(model: ir.Model, classes: bool) -> set[ir.Node]:
    """Each top-k of float32 scores, and what leads to such alone, back to the last product.

    With ``classes`` also what gives an output (B, classes).
    """
    ranked = {value for value in model.graph.outputs if classes and _is_matrix(value)}
    found: set[ir.Node] = set()
    for node in reversed(model.graph):
        if node.op_type == "TopK":
            scores = node.inputs[0]
            if scores is not None and scores.dtype == SINGLE:
                found.add(node)
            continue
        users = {user for value in node.outputs for user, _ in value.uses()}
        ends = not ranked.isdisjoint(node.outputs)
        if not (users or ends) or not users <= found:
            continue
        if not any(user.op_type in PRODUCTS for user in users):
            found.add(node)
    return found


def _is_matrix(value: ir.Value) -> bool:
    return value.dtype == SINGLE and value.shape is not None and len(value.shape) == 2


def _agree(model: ir.Model, marks: Mapping[str, str], single: set[ir.Node], half_io: bool) -> None:
    """Add to ``single`` until both ends of every mark are made in one precision.

    But with ``half_io``, inputs are float32, and so is what a mark calls by the name of an output.
    """
    pairs = _marked(model, marks)
    before = -1
    while before != len(single):
        before = len(single)
        for pair in pairs:
            producers = [node for value in pair if (node := value.producer()) is not None]
            ends = any(value.is_graph_input() or value.is_graph_output() for value in pair)
            if (ends and not half_io) or not single.isdisjoint(producers):
                single.update(producers)


def _require_agreement(model: ir.Model, marks: Mapping[str, str]) -> None:
    """With inputs and outputs in half, a mark may bind one to what must be float32."""
    for here, there in _marked(model, marks):
        if here.dtype != there.dtype:
            raise ModelFileError(
                f"in the dense twin {there.name} ({there.dtype}) takes the place of {here.name} "
                f"({here.dtype}), and of the two one is an input or output: leave inputs and "
                "outputs in float32"
            )


def _marked(model: ir.Model, marks: Mapping[str, str]) -> list[tuple[ir.Value, ir.Value]]:
    """The pairs of values that marks speak of. In a dense twin the marks are used up: an end that
    is not there binds nothing."""
    values = {value.name: value for value in _values(model) if not value.is_initializer()}
    return [
        (values[here], values[there])
        for here, there in marks.items()
        if here in values and there in values
    ]


def _overflows(constant: ir.Value, dtype: ir.DataType) -> bool:
    """Whether a float32 constant holds finite values that are infinite in ``dtype``."""
    if constant.dtype != SINGLE:
        return False
    array = content_of(constant)
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype.numpy())
    return bool((np.isfinite(array) & ~np.isfinite(rounded)).any())


def _convert_constant(model: ir.Model, value: ir.Value, halved: set[Use], kind: Kind) -> None:
    """A constant in half for the users who want it so; beside the float32 one if others do not."""
    uses = [use for use in value.uses() if use in halved]
    if not uses:
        return
    dtype = HALF[kind]
    shared = len(uses) < len(value.uses()) or value.is_graph_output()
    name = f"{value.name}/{kind}" if shared else value.name
    array = content_of(value).astype(dtype.numpy())
    tensor = ir.Tensor(array, dtype=dtype, name=name)
    if not shared:
        value.const_value, value.type = tensor, ir.TensorType(dtype)
        return
    half = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
    model.graph.register_initializer(half)
    for node, place in uses:
        node.replace_input_with(place, half)


def _cast_where_types_meet(
    model: ir.Model,
    value: ir.Value,
    halved: set[Use],
    kind: Kind,
    order: Mapping[ir.Node, int],
    half_io: bool,
) -> None:
    """One Cast of a value for all who want it in the other precision, an output among them."""
    is_half = value.dtype == HALF[kind]
    uses = [use for use in value.uses() if (use in halved) != is_half]
    ends = value.is_graph_output() and value.dtype == (SINGLE if half_io else HALF[kind])
    if not uses and not ends:
        return
    dtype, suffix = (SINGLE, "fp32") if is_half else (HALF[kind], kind)
    changed = cast(value, dtype, name=f"{value.name}/{suffix}")
    result = changed.outputs[0]
    _insert(model, changed, [node for node, _ in uses], order)
    for node, place in uses:
        node.replace_input_with(place, result)
    if ends:
        outputs = model.graph.outputs
        outputs[list(outputs).index(value)] = result
        own = kind if is_half else "fp32"
        value.name, result.name = f"{value.name}/{own}", value.name


def _insert(
    model: ir.Model, changed: ir.Node, users: Sequence[ir.Node], order: Mapping[ir.Node, int]
) -> None:
    """Put a Cast before the first of its users, not behind what it casts, whose place another may
    take in the dense twin that is computed later."""
    (value,) = changed.inputs
    assert value is not None
    if users and all(node in order for node in users):
        model.graph.insert_before(min(users, key=lambda node: order[node]), changed)
    else:  # for an output alone, or for a graph inside a node
        put_behind(model, value, [changed])
