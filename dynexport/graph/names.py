"""Names a person can read: every node, value and constant called after its module."""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_modules(model: ir.Model, root: str) -> None:
    """Name nodes ``module.path/Op`` from the exporter's scopes, then drop the exporter's notes.

    ``root`` is the attribute the exporter's wrapper holds the model by, cut from every path. The
    notes hold stack traces of the exporting machine, which have no place in a product.
    """
    graph = model.graph
    used: Counter[str] = Counter()
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    for value in list(graph.initializers.values()):
        _rename(value, _strip(value.name or "", root), used)
    for node in graph:
        scope = _scope(node, root)
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = unique(base, used)
        for place, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = node.name if place == 0 else f"{node.name}.{place}"
        for used_value in node.inputs:
            if used_value is not None and used_value.is_initializer():
                _name_constant(used_value, scope, used)
        node.metadata_props.clear()
        node.doc_string = None
    for each in _values(graph):
        each.metadata_props.clear()
        each.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    graph.name = "dynexport"


def _scope(node: ir.Node, root: str) -> str:
    """The path of the innermost module the node came from."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    modules = [scope for scope in scopes[:-1] if scope and scope != root]
    return _strip(modules[-1], root) if modules else ""


def _strip(name: str, root: str) -> str:
    return name.removeprefix(root + ".")


def _name_constant(value: ir.Value, scope: str, used: Counter[str]) -> None:
    """Constants the exporter made have no module in their name: call them after their user, or
    after their content where they are a few integers."""
    array = value.const_value
    if array is None or "." in (value.name or "") or "/" in (value.name or ""):
        return
    if array.dtype == ir.DataType.INT64 and array.size <= 8:
        text = "_".join(str(number) for number in array.numpy().reshape(-1))
        _rename(value, f"const/{text}" if array.shape else f"const/scalar_{text}", used)
    else:
        _rename(value, f"{scope}/constant" if scope else "constant", used)


def _rename(value: ir.Value, name: str, used: Counter[str]) -> None:
    value.name = unique(name, used)


def unique(base: str, used: Counter[str]) -> str:
    """``base``, or with a number behind it where it is taken.

    Names that are taken are in ``used``, to which it is added.
    """
    name, number = base, used[base]
    while used[name]:
        name, number = f"{base}_{number}", number + 1
    used[base] += 1
    if name != base:
        used[name] += 1
    return name


def _values(graph: ir.Graph) -> list[ir.Value]:
    produced = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *produced]
