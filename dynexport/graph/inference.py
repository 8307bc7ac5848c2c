"""Shapes and types of what one node gives, by ONNX's own rules: the same question is asked once.

An unrolled model has thousands of nodes of which most ask what another asked, and each pass over a
graph asks all of them again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.graph.patterns import sizes_of
from dynexport.graph.size_arithmetic import Size

WHOLE = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
"""Types whose content may be sizes."""

FEW = 64
"""Elements of an input whose content a shape may depend on, at most."""

KEPT_ANSWERS = 1 << 15
"""Answers remembered, at most: a few hundred bytes each."""

Type = tuple[int, tuple[Size, ...] | None]
"""Of a value: what its elements are, by ONNX's number, and its sizes if its rank is known."""

Held = tuple[str, tuple[int, ...], bytes]
"""What an input holds: numpy's name of the type, the shape, the content."""


class Question(NamedTuple):
    """All that the types of a node's outputs depend on.

    attributes  each as ONNX writes it
    inputs      the type of each; None for one left out
    held        what those of whole numbers hold, where it is known and little
    outputs     how many are asked for
    """

    operator: str
    opset: int
    attributes: tuple[bytes, ...]
    inputs: tuple[Type | None, ...]
    held: tuple[Held | None, ...]
    outputs: int


def ask_about(
    node: ir.Node, opset: int, content: Callable[[ir.Value], NDArray[Any] | None]
) -> Question | None:
    """The question about a node; None while the type of an input is unknown."""
    types: list[Type | None] = []
    held: list[Held | None] = []
    for value in node.inputs:
        if value is None:
            types.append(None)
            held.append(None)
            continue
        if value.dtype is None:
            return None
        sizes = sizes_of(value)
        types.append((int(value.dtype), None if sizes is None else tuple(sizes)))
        array = content(value) if value.dtype in WHOLE else None
        if array is None or array.size > FEW:
            held.append(None)
        else:
            held.append((array.dtype.str, array.shape, array.tobytes()))
    attributes = tuple(
        ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
        for attribute in node.attributes.values()
    )
    return Question(node.op_type, opset, attributes, tuple(types), tuple(held), len(node.outputs))


@lru_cache(maxsize=KEPT_ANSWERS)
def infer_outputs(question: Question | None) -> tuple[Type | None, ...]:
    """The type of each output as far as it follows; nothing where the rule refuses."""
    if question is None:
        return ()
    given = [f"i{place}" if kind else "" for place, kind in enumerate(question.inputs)]
    made = [f"o{place}" for place in range(question.outputs)]
    node = onnx.helper.make_node(question.operator, given, made)
    node.attribute.extend(map(onnx.AttributeProto.FromString, question.attributes))
    types = {
        name: onnx.helper.make_tensor_type_proto(*kind)
        for name, kind in zip(given, question.inputs, strict=True)
        if kind
    }
    data = {
        name: onnx.numpy_helper.from_array(np.frombuffer(content, dtype).reshape(shape))
        for name, (dtype, shape, content) in (
            (name, held) for name, held in zip(given, question.held, strict=True) if held
        )
    }
    try:
        schema = onnx.defs.get_schema(question.operator, question.opset, "")
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", question.opset)],
        )
    except Exception:  # each rule raises as it likes; what does not follow stays unknown
        return ()
    return tuple(_told(found.get(name)) for name in made)


def _told(found: onnx.TypeProto | None) -> Type | None:
    if found is None or not found.HasField("tensor_type"):
        return None
    kind = found.tensor_type
    known = tuple(map(_size_in, kind.shape.dim)) if kind.HasField("shape") else None
    return kind.elem_type, known


def _size_in(size: Any) -> Size:
    if size.HasField("dim_value"):
        return int(size.dim_value)
    return str(size.dim_param) or None
