"""Files of an opset older than the rules know, brought to the first one that they do."""

from __future__ import annotations

import re

import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from dynexport.errors import ModelFileError, first_line
from dynexport.graph.edits import drop_unused, put_in_place
from dynexport.graph.opset import OLDEST
from dynexport.graph.patterns import is_standard, nodes_of, only_user, producer, sizes_of
from dynexport.graph.sizes import learn_sizes
from dynexport.graph.tidy import open_up
from dynexport.progress import unheard_below

ASSERTION = re.compile(r"^\S+:\d+: \w+: Assertion `.*?` failed: ")
"""What the converter says before what is the matter."""

LISTED = 4
"""The version of the file format from which on constants need not be inputs as well."""


def upgrade_opset(model: ir.Model) -> ir.Model:
    """A graph of opset `OLDEST` that computes the same, by ONNX's own converter.

    ModelFileError where it has no way there.
    """
    model = model.clone()
    if model.functions:
        InlinePass()(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if is_standard(node) and not onnx.defs.has(node.op_type, OLDEST):
            raise ModelFileError(f"ONNX has no {node.op_type} any more")
    proto = ir.serde.serialize_model(model)
    proto.ir_version = max(proto.ir_version, LISTED)
    try:
        with unheard_below():
            converted = onnx.version_converter.convert_version(proto, OLDEST)
        upgraded = ir.serde.deserialize_model(converted)
    except Exception as error:  # the converter raises what it likes
        raise ModelFileError(ASSERTION.sub("", first_line(error)).rstrip(".")) from None
    for value in [value for value in upgraded.graph.inputs if value.is_initializer()]:
        upgraded.graph.inputs.remove(value)
    for node in ir.traversal.RecursiveGraphIterator(upgraded.graph):
        node.name = node.name or f"{node.op_type}/{node.outputs[0].name}"
    upgraded.producer_name, upgraded.producer_version = model.producer_name, model.producer_version
    upgraded.metadata_props.update(model.metadata_props)
    open_up(upgraded)
    learn_sizes(upgraded)
    for operator in ("Softmax", "LogSoftmax"):
        for node in nodes_of(upgraded, operator):
            _unflatten(node)
    drop_unused(upgraded)
    return upgraded


def _unflatten(node: ir.Node) -> None:
    """A softmax over the last axis as that, where the converter did not know how many there are.

    Before opset 13 it was over all axes from one on, made one; so the converter flattens them and
    puts them back.
    """
    flat, back = producer(node.inputs[0], "Flatten"), only_user(node.outputs[0])
    if flat is None or back is None or back.op_type != "Reshape":
        return
    source, shape = flat.inputs[0], producer(back.inputs[1], "Shape")
    sizes = sizes_of(source)
    if source is None or not sizes or shape is None or shape.inputs[0] is not source:
        return
    if flat.attributes.get_int("axis", 1) != len(sizes) - 1:
        return
    node.replace_input_with(0, source)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    node.outputs[0].shape = source.shape
    put_in_place(back.outputs[0], node.outputs[0])
