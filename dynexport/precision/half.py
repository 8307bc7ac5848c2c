"""Half precision written into the graph: fp16 or bf16, every conversion an explicit Cast.

A strongly typed runtime (TensorRT 11, TensorRT-RTX, TensorRT 10 on request) computes what the
file says. So the file says it: each node works in half or in single precision, and where the two
meet stands one Cast, made once for all who need it; constants are converted, never cast.

What stays in float32 was measured on DeiT, LV-ViT, Swin and ConvNeXt at ratio 0.7 and on the
trained MNIST model, with operators that compute in float32 and round what they give:

- inputs and outputs of the graph;
- each top-k of scores, and what leads to nothing else, back to the last product: a score rounded
  to half makes exact ties, which every runtime breaks its own way. The whole predictor in float32
  would swap a third fewer tokens (MNIST, fp16: in 63 images of 1000, not 97, all within 1.2e-4 of
  the cut), but its products would cost as much again, and accuracy is the same, 98.2 %;
- a constant with finite values that half cannot hold, and the nodes that use it: the score that
  pins the class token, a mask of -1e9. What comes out of such a node must fit half precision, or
  go to a top-k. Infinities stay what they are;
- an operator that ONNX does not define in half at the graph's opset: convolutions in bf16 before
  opset 22.

LayerNormalization, Softmax and the head are in half. The first computes in float32 inside
(stash_type 1), as runtimes do in a Softmax: to surround them with Casts (61 in place of 5 in a
DeiT) gave the same kept tokens and errors but for noise. A head in float32 takes a tenth off the
logits' error and changes no class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.errors import ModelFileError
from dynexport.metadata import PREFIX, Metadata

Kind = Literal["fp16", "bf16"]
Use = tuple[ir.Node, int]
"""A node and which of its inputs."""
Formal = onnx.defs.OpSchema.FormalParameter
"""An input or output of an operator, as ONNX defines it."""

HALF: Mapping[str, ir.DataType] = MappingProxyType(
    {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
)
SINGLE = ir.DataType.FLOAT
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
"""Operators that sum so many terms that no two scores come out equal by chance."""


def to_half(model: ir.Model, kind: Kind) -> ir.Model:
    """A typed copy of a float32 graph: half precision inside, float32 inputs and outputs.

    Values keep their names; a Cast is called after what it casts (``x/fp16``, ``x/fp32``), and
    what an output is cast from is ``logits/fp16``. Both ends of every pair of the metadata's
    ``dense_twin`` have one type, so the twin can be made of the typed graph. ModelFileError if
    the graph is in half precision already or lacks types.
    """
    _require_single(model)
    typed, dtype = model.clone(), HALF[kind]
    single = _single_nodes(typed, dtype)
    halved: set[Use] = set()
    results: list[ir.Value] = []
    for node in typed.graph:
        if node not in single:
            inputs, outputs = _half_places(node, dtype)
            halved.update((node, place) for place in inputs)
            results.extend(node.outputs[place] for place in outputs)
    for value in results:
        value.type = ir.TensorType(dtype)
    order = {node: place for place, node in enumerate(typed.graph)}
    for value in list(_values(typed)):
        if value.is_initializer():
            _convert_constant(typed, value, halved, kind)
        else:
            _cast_where_types_meet(typed, value, halved, kind, order)
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


def _require_single(model: ir.Model) -> None:
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


def _single_nodes(model: ir.Model, dtype: ir.DataType) -> set[ir.Node]:
    """The nodes that compute in float32, or in no floating point at all."""
    single = {node for node in model.graph if not any(_half_places(node, dtype))}
    single |= _score_nodes(model)
    for value in model.graph.initializers.values():
        if _overflows(value, dtype):
            single.update(node for node, _ in value.uses())
    properties = dict(model.metadata_props)
    if PREFIX + "dense_twin" in properties:
        marks = Metadata.from_properties(properties, "the graph").dense_twin
        _agree(model, marks, single)
    return single


def _score_nodes(model: ir.Model) -> set[ir.Node]:
    """Each top-k of float32 scores, and what leads to it alone, back to the last product."""
    found: set[ir.Node] = set()
    for node in reversed(model.graph):
        if node.op_type == "TopK":
            scores = node.inputs[0]
            if scores is not None and scores.dtype == SINGLE:
                found.add(node)
            continue
        users = {user for value in node.outputs for user, _ in value.uses()}
        if users and users <= found and not any(user.op_type in PRODUCTS for user in users):
            found.add(node)
    return found


def _agree(model: ir.Model, marks: Mapping[str, str], single: set[ir.Node]) -> None:
    """Add to ``single`` until both ends of every mark are made in one precision.

    Inputs are float32, and so is what a mark calls by the name of an output. In a dense twin the
    marks are used up: an end that is not there binds nothing.
    """
    values = {value.name: value for value in _values(model)}
    pairs = [
        (values[here], values[there])
        for here, there in marks.items()
        if here in values and there in values
    ]
    before = -1
    while before != len(single):
        before = len(single)
        for pair in pairs:
            makers = [node for value in pair if (node := value.producer()) is not None]
            fixed = len(makers) < 2 or any(value.is_graph_output() for value in pair)
            if fixed or not single.isdisjoint(makers):
                single.update(makers)


def _half_places(node: ir.Node, dtype: ir.DataType) -> tuple[list[int], list[int]]:
    """Which inputs and outputs of a node turn from float32 to ``dtype``, by the operator's schema:
    inputs whose type may vary, and outputs of the same type. None of an operator unknown to ONNX,
    or that holds a graph."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    inside = any(attribute.type in graphs for attribute in node.attributes.values())
    if inside or not onnx.defs.has(node.op_type, node.domain):
        return [], []
    assert node.graph is not None
    version = node.graph.opset_imports[node.domain]
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    tensor = f"tensor({dtype.name.lower()})"
    allowed = {c.type_param_str for c in schema.type_constraints if tensor in c.allowed_type_strs}
    inputs = _float_places(node.inputs, schema.inputs, allowed)
    shared = {_variable(schema.inputs, place) for place in inputs}
    return inputs, _float_places(node.outputs, schema.outputs, shared)


def _float_places(
    values: Sequence[ir.Value | None], formals: Sequence[Formal], variables: set[str]
) -> list[int]:
    return [
        place
        for place, value in enumerate(values)
        if value is not None and value.dtype == SINGLE and _variable(formals, place) in variables
    ]


def _variable(formals: Sequence[Formal], place: int) -> str:
    """The type variable of a parameter; the last one may stand for any number."""
    return str(formals[min(place, len(formals) - 1)].type_str)


def _overflows(constant: ir.Value, dtype: ir.DataType) -> bool:
    """Whether a float32 constant holds finite values that are infinite in ``dtype``."""
    if constant.dtype != SINGLE:
        return False
    array = _content(constant)
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype.numpy())
    return bool((np.isfinite(array) & ~np.isfinite(rounded)).any())


def _content(constant: ir.Value) -> NDArray[Any]:
    assert constant.const_value is not None
    return constant.const_value.numpy()


def _convert_constant(model: ir.Model, value: ir.Value, halved: set[Use], kind: Kind) -> None:
    """A constant in half for the users who want it so; beside the float32 one if others do not."""
    uses = [use for use in value.uses() if use in halved]
    if not uses:
        return
    dtype = HALF[kind]
    shared = len(uses) < len(value.uses()) or value.is_graph_output()
    name = f"{value.name}/{kind}" if shared else value.name
    array = _content(value).astype(dtype.numpy())
    tensor = ir.Tensor(array, dtype=dtype, name=name)
    if not shared:
        value.const_value, value.type = tensor, ir.TensorType(dtype)
        return
    half = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
    model.graph.register_initializer(half)
    for node, place in uses:
        node.replace_input_with(place, half)


def _cast_where_types_meet(
    model: ir.Model, value: ir.Value, halved: set[Use], kind: Kind, order: dict[ir.Node, int]
) -> None:
    """One Cast of a value for all who want it in the other precision, an output among them.

    It stands before the first of them, not behind the value, whose place another may take in the
    dense twin that is computed later.
    """
    is_half = value.dtype == HALF[kind]
    uses = [use for use in value.uses() if (use in halved) != is_half]
    ends = is_half and value.is_graph_output()
    if not uses and not ends:
        return
    dtype, suffix = (SINGLE, "fp32") if is_half else (HALF[kind], kind)
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/{suffix}")
    result = cast.outputs[0]
    result.name, result.shape, result.type = cast.name, value.shape, ir.TensorType(dtype)
    users = [node for node, _ in uses]
    if users and all(node in order for node in users):
        model.graph.insert_before(min(users, key=lambda node: order[node]), cast)
    else:  # for an output alone, or for a graph inside a node
        maker = value.producer()
        assert maker is not None
        model.graph.insert_after(maker, cast)
    for node, place in uses:
        node.replace_input_with(place, result)
    if ends:
        outputs = model.graph.outputs
        outputs[list(outputs).index(value)] = result
        value.name, result.name = f"{value.name}/{kind}", value.name
