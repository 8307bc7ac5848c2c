"""ONNX files that load, and whose graphs are wrong inside."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from fuzz.damage import ODD_TEXTS, change_json

OPERATORS = (
    *("If", "Loop", "Scan", "Constant", "ConstantOfShape", "TopK", "Reshape", "Gather", "Nonsense"),
    *("SequenceAt", "Cast", "Split", "Optional", "Attention", "LayerNormalization", "Softmax", ""),
    *("GatherND", "ScatterND", "Slice", "Shape", "Expand", "Where", "NonZero", "Transpose", "Conv"),
    *("LogSoftmax", "MatMul", "Einsum", "QuantizeLinear", "RandomNormal", "Concat", "Identity"),
)
NUMBERS = (-(2**63), -1, 0, 1, 2, 5, 7, 50, 2**31, 2**40, 2**62)
"""As dimensions and axes they are too large, negative, or another's."""


def odd_model(sound: ModelProto, random: Random) -> ModelProto:
    """A copy with one to three changes; what no protocol buffer can hold is left out."""
    model = ModelProto()
    model.CopyFrom(sound)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change = random.choice(CHANGES)
        try:
            change(model, random)
        except (ValueError, IndexError):  # nothing is left to change
            continue
    return model


def _node(model: ModelProto, random: Random) -> NodeProto:
    functions = [node for function in model.functions for node in function.node]
    pool = functions if functions and random.random() < 0.15 else list(model.graph.node)
    return random.choice(pool)


def _names(model: ModelProto) -> list[str]:
    given = [name for node in model.graph.node for name in node.output]
    return given + [tensor.name for tensor in model.graph.initializer]


def _odd_name(model: ModelProto, random: Random) -> str:
    return random.choice((random.choice(_names(model)), "nothing", *ODD_TEXTS[:6]))


def rename_input(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    node.input[random.randrange(len(node.input))] = _odd_name(model, random)


def rename_output(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    node.output[random.randrange(len(node.output))] = _odd_name(model, random)


def change_arity(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    names = random.choice((node.input, node.output))
    if random.random() < 0.5:
        names.pop()
    else:
        names.append(_odd_name(model, random))


def rename_node(model: ModelProto, random: Random) -> None:
    _node(model, random).name = random.choice((*ODD_TEXTS, _node(model, random).name))


def change_operator(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    node.op_type = random.choice(OPERATORS)
    if random.random() < 0.3:
        del node.attribute[:]


def change_domain(model: ModelProto, random: Random) -> None:
    _node(model, random).domain = random.choice(("com.microsoft", "ai.onnx.ml", "x.y", "", "\0"))


def move_nodes(model: ModelProto, random: Random) -> None:
    nodes = list(model.graph.node)
    action = random.randrange(5)
    if action == 0:
        nodes.remove(random.choice(nodes))
    elif action == 1:
        nodes.append(random.choice(nodes))
    elif action == 2:
        random.shuffle(nodes)
    elif action == 3:
        nodes = nodes[: random.choice((0, 1, len(nodes) // 2))]
    else:
        first, last = nodes[0], nodes[-1]
        first.input[0] = last.output[0]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _tensor(model: ModelProto, random: Random) -> TensorProto:
    held = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    pool = held if held and random.random() < 0.2 else list(model.graph.initializer)
    return random.choice(pool)


def change_dims(model: ModelProto, random: Random) -> None:
    tensor = _tensor(model, random)
    if tensor.dims and random.random() < 0.7:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(NUMBERS)
    else:
        tensor.dims.extend(random.choice(((1,), (0,), (2, 3), (1,) * 70, (-1,))))


def change_data(model: ModelProto, random: Random) -> None:
    tensor = _tensor(model, random)
    action = random.randrange(5)
    if action == 0:
        tensor.data_type = random.choice((0, 1, 6, 7, 8, 9, 10, 14, 16, 17, 21, 22, 23, 99))
    elif action == 1:
        tensor.raw_data = tensor.raw_data[: random.choice((0, 1, 4, 10))]
    elif action == 2:
        tensor.float_data.extend([1.0, 2.0])
    elif action == 3:
        tensor.ClearField("raw_data")
        tensor.string_data.append(b"\xff")
    else:
        tensor.name = _odd_name(model, random)


def move_data_outside(model: ModelProto, random: Random) -> None:
    """External data that lies: elsewhere, too long, beyond the file, in a device."""
    tensor = _tensor(model, random)
    tensor.data_location = TensorProto.EXTERNAL
    places = ("../given/x.data", "/dev/zero", "/etc/passwd", "x.data", "", ".", "deit.onnx", "\0")
    entries = {
        "location": random.choice(places),
        "offset": random.choice(("0", "-1", "10", str(2**60), "x")),
        "length": random.choice(("0", "4", "-5", str(2**50), "")),
    }
    del tensor.external_data[:]
    for key, value in entries.items():
        if random.random() < 0.8:
            tensor.external_data.add(key=key, value=value)
    if random.random() < 0.8:
        tensor.ClearField("raw_data")


def drop_tensor(model: ModelProto, random: Random) -> None:
    del model.graph.initializer[random.randrange(len(model.graph.initializer))]


def add_sparse(model: ModelProto, random: Random) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.append(random.choice(NUMBERS))
    sparse.values.CopyFrom(_tensor(model, random))
    sparse.indices.CopyFrom(_tensor(model, random))


def change_attribute(model: ModelProto, random: Random) -> None:
    with_some = [node for node in model.graph.node if node.attribute]
    attribute = random.choice(random.choice(with_some).attribute)
    action = random.randrange(7)
    if action == 0:
        attribute.type = random.choice([*AttributeProto.AttributeType.values()])
    elif action == 1:
        attribute.name = random.choice((*ODD_TEXTS[:6], "axis", "perm"))
    elif action == 2:
        attribute.i = random.choice(NUMBERS)
    elif action == 3 and attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice(NUMBERS)
    elif action == 4:
        attribute.ints.extend(random.choices(NUMBERS, k=3))
    elif action == 5:
        attribute.ref_attr_name = random.choice(("x", attribute.name))
    else:
        for field in ("i", "f", "s", "t", "ints", "floats"):
            attribute.ClearField(field)


def add_attribute(model: ModelProto, random: Random) -> None:
    attribute = _node(model, random).attribute.add()
    attribute.name = random.choice(("then_branch", "body", "axis", "to", "value", "perm", "axes"))
    action = random.randrange(4)
    if action == 0:
        attribute.type = AttributeProto.GRAPH
        attribute.g.CopyFrom(_subgraph(model, random))
    elif action == 1:
        attribute.type, attribute.i = AttributeProto.INT, random.choice(NUMBERS)
    elif action == 2:
        attribute.type = AttributeProto.INTS
        attribute.ints.extend(random.choices(NUMBERS, k=2))
    else:
        attribute.type = random.choice((0, 11, 12, 13, 14))


def _subgraph(model: ModelProto, random: Random) -> GraphProto:
    graph = GraphProto(name=random.choice(ODD_TEXTS[:6]))
    for _ in range(random.randint(0, 3)):
        graph.node.append(_node(model, random))
    graph.output.add(name=_odd_name(model, random))
    return graph


def add_branch(model: ModelProto, random: Random) -> None:
    """An If of two branches, which read what is outside."""
    for branch in ("then_branch", "else_branch"):
        node = helper.make_node("Identity", [random.choice(_names(model))], [branch])
        graph = helper.make_graph([node], branch, [], [onnx.ValueInfoProto(name=branch)])
        if branch == "then_branch":
            made = helper.make_node("If", [random.choice(_names(model))], ["chosen"])
            model.graph.node.insert(random.randrange(len(model.graph.node) + 1), made)
        held = next(n for n in model.graph.node if list(n.output) == ["chosen"]).attribute.add()
        held.name, held.type = branch, AttributeProto.GRAPH
        held.g.CopyFrom(graph)


def change_ends(model: ModelProto, random: Random) -> None:
    ends = random.choice((model.graph.input, model.graph.output))
    end = random.choice(ends)
    action = random.randrange(8)
    if action == 0:
        ends.remove(end)
    elif action == 1:
        ends.add().CopyFrom(end)
    elif action == 2:
        end.name = _odd_name(model, random)
    elif action == 3:
        end.ClearField("type")
    elif action == 4:
        end.type.sequence_type.elem_type.tensor_type.elem_type = 1
    elif action == 5:
        end.type.tensor_type.elem_type = random.choice((0, 7, 8, 10, 16, 99))
    else:
        _change_shape(end.type.tensor_type.shape, random)


def _change_shape(shape: Any, random: Random) -> None:
    size = random.choice(shape.dim)
    action = random.randrange(4)
    if action == 0:
        size.dim_value = random.choice(NUMBERS)
    elif action == 1:
        size.dim_param = random.choice(ODD_TEXTS)
    elif action == 2:
        shape.dim.remove(size)
    else:
        size.Clear()


def change_stated(model: ModelProto, random: Random) -> None:
    """What a file says of values in between."""
    stated = random.choice(model.graph.value_info)
    action = random.randrange(3)
    if action == 0:
        stated.name = _odd_name(model, random)
    elif action == 1:
        stated.type.tensor_type.elem_type = random.choice((0, 7, 9, 10, 99))
    else:
        _change_shape(stated.type.tensor_type.shape, random)


def change_versions(model: ModelProto, random: Random) -> None:
    action = random.randrange(4)
    if action == 0:
        model.ir_version = random.choice((-1, 0, 3, 11, 13, 99, 2**60))
    elif action == 1:
        random.choice(model.opset_import).version = random.choice((-1, 0, 1, 6, 12, 13, 26, 999))
    elif action == 2:
        model.opset_import.remove(random.choice(model.opset_import))
    else:
        model.opset_import.add(domain=random.choice(("", "x", "com.microsoft")), version=3)


def change_function(model: ModelProto, random: Random) -> None:
    function = random.choice(model.functions)
    action = random.randrange(6)
    if action == 0:
        model.functions.remove(function)
    elif action == 1:
        function.name = random.choice(("X", "", "Gelu"))
    elif action == 2:
        function.node.add(
            op_type=function.name, domain=function.domain, input=function.input, output=["again"]
        )
    elif action == 3:
        random.choice((function.input, function.output)).append(random.choice(ODD_TEXTS[:6]))
    elif action == 4:
        model.functions.add().CopyFrom(function)
    else:
        del function.opset_import[:]


def change_metadata(model: ModelProto, random: Random) -> None:
    entry = random.choice(model.metadata_props)
    action = random.randrange(6)
    if action == 0:
        model.metadata_props.remove(entry)
    elif action == 1:
        model.metadata_props.add(key=entry.key, value="1")
    else:
        changed = change_json(entry.value, random)
        entry.value = changed.encode("utf-8", "replace").decode()


CHANGES: tuple[Callable[[ModelProto, Random], None], ...] = (
    *(rename_input, rename_output, change_arity, rename_node, change_operator, change_operator),
    *(change_domain, move_nodes, change_dims, change_data, move_data_outside, drop_tensor),
    *(add_sparse, change_attribute, change_attribute, add_attribute, add_branch, change_ends),
    *(change_stated, change_versions, change_function, change_metadata, change_metadata),
)
