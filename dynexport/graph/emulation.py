"""What a graph in half precision says, in float32 operators: for runtimes that have none in half.

ONNX Runtime's CPU provider has no operators in bf16, and runs most of those in fp16 in float32,
leaving out the Casts between them: what overflows or rounds on a GPU does neither there.
"""

from __future__ import annotations

import onnx_ir as ir

from dynexport.graph.edits import cast

SINGLE = ir.DataType.FLOAT
HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

MOVES = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"),
        *("Reshape", "Slice", "Split", "Squeeze", "TopK", "Transpose", "Unsqueeze"),
    }
)
"""Operators that only move numbers, so that there is nothing to round."""


def computes_in_half(model: ir.Model) -> bool:
    """Whether a node gives a value in half precision, or the graph takes one.

    Constants that are only stored so, each with a Cast behind it, do not count.
    """
    computed = (value for node in model.graph for value in node.outputs)
    return any(value.dtype in HALF for value in (*model.graph.inputs, *computed))


def emulate_half(model: ir.Model) -> ir.Model:
    """A copy that gives the numbers of a graph in half precision with float32 operators.

    Inputs and outputs are float32 as well.

    Every value that is fp16 or bf16 in the graph is computed by the same operator in float32, then
    rounded: a Cast to its type and one back (ONNX, Cast: to the nearest, ties to even; to infinity
    what is too large). A product so sums in float32 and rounds its sum once, as the matrix units
    of GPUs do; LayerNormalization and Softmax too round once, what they give. Constants hold the
    numbers they held. What is rounded keeps its name, so that what metadata say of values holds. A
    graph without half precision comes back as it was.
    """
    emulated = model.clone()
    for graph in (emulated.graph, *emulated.graph.subgraphs()):
        for constant in graph.initializers.values():
            if constant.dtype in HALF:
                assert constant.const_value is not None
                constant.const_value = _in_single(constant.const_value)
                constant.type = ir.TensorType(SINGLE)
        for value in graph.inputs:
            if (dtype := value.dtype) in HALF:
                value.type = ir.TensorType(SINGLE)
                _round_input(graph, value, dtype)
        for node in list(graph):
            _emulate_node(graph, node)
    return emulated


def _emulate_node(graph: ir.Graph, node: ir.Node) -> None:
    for attribute in list(node.attributes.values()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in HALF:
            single = ir.AttrTensor(attribute.name, _in_single(attribute.value))
            node.attributes[attribute.name] = single
        elif attribute.name in ("dtype", "output_dtype") and attribute.value in HALF:
            node.attributes[attribute.name] = ir.AttrInt64(attribute.name, int(SINGLE))
    for value in node.outputs:
        if (dtype := value.dtype) in HALF:
            value.type = ir.TensorType(SINGLE)
            if node.op_type not in MOVES:
                _round_output(graph, node, value, dtype)


def _round_input(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    """Who reads an input reads it rounded; the input keeps its name."""
    pair = _round_uses(value, str(value.name), dtype)
    first = next(iter(graph), None)
    if first is None:
        graph.extend(pair)
    else:
        graph.insert_before(first, pair)


def _round_output(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> None:
    """Who reads an output of a node reads it rounded, the graph's own outputs too; what is rounded
    takes its name."""
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(SINGLE))
    name = str(value.name)
    pair = _round_uses(value, name, dtype)
    back = pair[1].outputs[0]
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = back
    value.name, back.name = f"{name}/exact", name
    graph.insert_after(node, pair)


def _round_uses(value: ir.Value, name: str, half: ir.DataType) -> tuple[ir.Node, ir.Node]:
    """A Cast of a value to half precision and one back, which those who used the value now use."""
    uses = list(value.uses())
    there = cast(value, half, name=f"{name}/rounded")
    back = cast(there.outputs[0], SINGLE, name=f"{name}/emulated")
    for user, place in uses:
        user.replace_input_with(place, back.outputs[0])
    return there, back


def _in_single(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype("float32"), name=tensor.name)
