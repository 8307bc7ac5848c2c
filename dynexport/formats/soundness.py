"""Whether an ONNX file that loads is sound inside, so that whoever reads its graph may rely on it.

It is no second `onnx.checker`: nodes may stand in any order, and operators that nobody knows are
left to whom they concern. But names lead somewhere, tensors hold what they say, and a node has what
its operator cannot be without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from dynexport.formats.tensors import tensor_problem

STANDARD = ("", "ai.onnx")
"""Domains of ONNX's own operators."""

KINDS: Mapping[int, str] = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
"""Types of attributes, and where a value of each stands."""


@dataclass(frozen=True)
class Scope:
    """What can be read at a place of a file.

    names     of values
    versions  of operators, by domain
    inside    whether it is a function's, whose attributes may refer to those of its callers
    folder    where external data lie
    """

    names: frozenset[str]
    versions: Mapping[str, int]
    inside: bool
    folder: Path


def find_problem(model: ModelProto, folder: Path) -> str:
    """The first thing that is wrong inside a file in this folder; "" where nothing is found."""
    return next(_problems(model, folder), "")


def _problems(model: ModelProto, folder: Path) -> Iterator[str]:
    for text in _texts(model):
        if isinstance(text, bytes):  # what protocol buffers make of it
            yield f"it holds text that is no UTF-8, {text[:40]!r}"
    versions = {entry.domain: entry.version for entry in model.opset_import}
    versions.setdefault("", versions.get("ai.onnx", 0))
    if not 1 <= versions[""] <= 2**31:
        yield f"it names no version of ONNX's operators but {versions['']}"
    yield from _in_graph(model.graph, Scope(frozenset(), versions, False, folder))
    for function in model.functions:
        own = {entry.domain: entry.version for entry in function.opset_import}
        given = [*function.input, *(name for node in function.node for name in node.output)]
        yield from _twice(given, f"function {function.name}")
        scope = Scope(frozenset(given), {**versions, **own}, True, folder)
        yield from _in_nodes(function.node, scope)
        yield from _unknown(function.output, scope, f"function {function.name} gives")
    yield from _circles(model)


def _in_graph(graph: GraphProto, outside: Scope) -> Iterator[str]:
    if graph.sparse_initializer:
        yield "it holds sparse weights, which no runtime here takes: write them in full"
    stored = [tensor.name for tensor in graph.initializer]
    fed = [value.name for value in graph.input]
    computed = [name for node in graph.node for name in node.output if name]
    if not all((*stored, *fed)):
        yield f"{'an input' if all(stored) else 'a weight'} has no name"
    yield from _twice(stored, "the graph")
    yield from _twice(fed, "the graph")
    yield from _twice([*{*stored, *fed}, *computed], "the graph")  # a weight may be an input
    for tensor in graph.initializer:
        yield from _in_tensor(tensor, f"the weight {tensor.name!r}", outside)
    names = outside.names.union(stored, fed, computed)
    scope = Scope(names, outside.versions, outside.inside, outside.folder)
    yield from _in_nodes(graph.node, scope)
    yield from _unknown((value.name for value in graph.output), scope, "the graph gives")


def _in_nodes(nodes: Iterable[NodeProto], scope: Scope) -> Iterator[str]:
    for node in nodes:
        called = f"node {node.name or ', '.join(node.output)!r} ({node.op_type})"
        yield from _unknown((name for name in node.input if name), scope, f"{called} reads")
        if len({attribute.name for attribute in node.attribute}) < len(node.attribute):
            yield f"{called} has an attribute twice"
        for attribute in node.attribute:
            yield from _in_attribute(attribute, called, scope)
        yield from _unlike_its_operator(node, called, scope)


def _in_attribute(attribute: AttributeProto, called: str, scope: Scope) -> Iterator[str]:
    if attribute.ref_attr_name:
        if not scope.inside:
            yield f"{called} takes its {attribute.name!r} from a function, and is in none"
        return
    field = KINDS.get(attribute.type)
    if field is None:
        yield f"{called} has an attribute {attribute.name!r} of no type that is known here"
        return
    if field in ("t", "g", "tp") and not attribute.HasField(field):
        yield f"{called} has an attribute {attribute.name!r} without a value"
    for tensor in [attribute.t] if field == "t" else attribute.tensors:
        yield from _in_tensor(tensor, f"the constant {attribute.name!r} of {called}", scope)
    for graph in [attribute.g] if field == "g" else attribute.graphs:
        yield from _in_graph(graph, scope)


def _unlike_its_operator(node: NodeProto, called: str, scope: Scope) -> Iterator[str]:
    """What a node lacks that its operator cannot be without; nothing of one that is not known."""
    if node.domain not in STANDARD or not onnx.defs.has(node.op_type):
        return
    version = scope.versions.get(node.domain, scope.versions[""])
    operator = _operator(node.op_type, version)
    if operator is None:
        yield f"{called} is none of ONNX's operators of version {version}"
        return
    for what, found, (least, most) in (
        ("inputs", len(node.input), operator.inputs),
        ("outputs", len(node.output), operator.outputs),
    ):
        if not least <= found <= most:
            bounds = str(least) if least == most else f"{least} to {most}"
            yield f"{called} has {found} {what}, and its operator {bounds}"
    if any(not name for name in node.input[: operator.inputs[0]]):
        yield f"{called} leaves out an input that its operator needs"
    given = {attribute.name: int(attribute.type) for attribute in node.attribute}
    for name in operator.required:
        if name not in given:
            yield f"{called} lacks its attribute {name!r}"
    for name, kind in given.items():
        if operator.attributes.get(name, kind) != kind:
            yield f"{called} has an attribute {name!r} of another type than its operator's"


@dataclass(frozen=True)
class Operator:
    """What a node of one of ONNX's operators must have.

    inputs, outputs  the fewest and the most
    attributes       their types, by name, and those that are ``required``
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    required: tuple[str, ...]


@cache
def _operator(name: str, version: int) -> Operator | None:
    """An operator as a version of ONNX has it; None where that has none of its name."""
    try:
        schema = onnx.defs.get_schema(name, version)
    except onnx.defs.SchemaError:  # it came later
        return None
    known = schema.attributes
    return Operator(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {key: int(one.type) for key, one in known.items()},  # type: ignore[call-overload]
        tuple(key for key, attribute in known.items() if attribute.required),
    )


def _in_tensor(tensor: TensorProto, called: str, scope: Scope) -> Iterator[str]:
    problem = tensor_problem(tensor, scope.folder)
    if problem:
        yield f"{called} {problem}"


def _twice(names: Iterable[str], where: str) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{where} has two values named {name!r}"
        seen.add(name)


def _unknown(names: Iterable[str], scope: Scope, what: str) -> Iterator[str]:
    for name in names:
        if name not in scope.names:
            yield f"{what} {name!r}, which nothing computes"


def _circles(model: ModelProto) -> Iterator[str]:
    """Functions that call themselves, through others or not."""
    left = {
        (one.domain, one.name): {(node.domain, node.op_type) for node in _every(one.node)}
        for one in model.functions
    }
    if len(left) < len(model.functions):
        yield "it defines a function twice"
    while ends := [name for name, called in left.items() if not called & left.keys()]:
        for name in ends:
            del left[name]
    if left:
        yield f"function {next(iter(left))[1]} calls itself"


def _texts(message: Any) -> Iterator[str | bytes]:
    """Every text in a protocol buffer, and in those that it holds."""
    for field, value in message.ListFields():
        if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE):
            alone = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
            for inner in (value,) if alone else value:
                yield from _texts(inner) if field.type == field.TYPE_MESSAGE else (inner,)


def _every(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes, and those of the graphs in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _every(graph.node)
