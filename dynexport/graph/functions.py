"""Operators that some runtimes have a kernel for, and every runtime understands.

A node of such an operator is carried with its definition, an ONNX function of standard operators
(IR specification, section "Functions"). A runtime that knows the operator by domain and name runs
its own kernel; others, and ONNX's shape inference, put the definition in its place. So one file
serves all.
"""

from __future__ import annotations

from collections import Counter

import onnx.parser
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from dynexport.graph.constants import int64_constant
from dynexport.graph.follow import follow_shapes
from dynexport.graph.names import unique

ONNXRUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


def add_function(model: ir.Model, text: str) -> None:
    """Define an operator of `ONNXRUNTIME` in a graph, once.

    The text is ``Name (X, B) => (Y) { ... }`` in ONNX's textual syntax, of standard operators of
    the graph's own version.
    """
    opset = model.opset_imports[""]
    header = f'<domain: "{ONNXRUNTIME}", opset_import: ["" : {opset}]>'
    function = ir.serde.deserialize_function(onnx.parser.parse_function(f"{header} {text}"))
    for node in function:
        node.name = f"{function.name}/{node.outputs[0].name}"
    if function.identifier() not in model.functions:
        model.functions[function.identifier()] = function
    model.opset_imports.setdefault(ONNXRUNTIME, 1)


def inline_functions(model: ir.Model) -> ir.Model:
    """The graph in standard operators alone: each function's definition in place of its nodes.

    The model given is changed, and returned; nodes of a definition are named after their operator,
    in the module of the node whose place they take.
    """
    if not model.functions:
        return model
    calls = [
        (node.name or "", len(model.functions[node.op_identifier()]))
        for node in model.graph
        if node.op_identifier() in model.functions
    ]
    known = {*model.graph}
    InlinePass()(model)
    model.opset_imports.pop(ONNXRUNTIME, None)
    new = [node for node in model.graph if node not in known]
    if len(new) == sum(count for _, count in calls):  # else one definition holds another
        used = Counter(node.name for node in known)
        scopes = (name.rpartition("/")[0] for name, count in calls for _ in range(count))
        for node, scope in zip(new, scopes, strict=True):
            node.name = unique(f"{scope}/{node.op_type}" if scope else node.op_type, used)
    for node in new:
        if node.op_type == "Constant" and "value_ints" in node.attributes:
            numbers = int64_constant(model, list(node.attributes.get_ints("value_ints")))
            ir.convenience.replace_all_uses_with(node.outputs[0], numbers)
            model.graph.remove(node, safe=True)
    follow_shapes(model)
    return model


def in_standard(model: ir.Model) -> ir.Model:
    """A graph in standard operators alone, for what knows no others; itself, if it is."""
    return inline_functions(model.clone()) if model.functions else model
