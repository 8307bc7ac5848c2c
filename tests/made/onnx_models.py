"""ONNX models of a few nodes, and what the rules and TensorRT-RTX make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from dynexport.check import check_graph
from dynexport.errors import DeviceError
from dynexport.graph.rule import Finding
from dynexport.runtimes import cuda
from dynexport.runtimes.tensorrt import EDITIONS
from dynexport.runtimes.tensorrt.builder import EnginePlan, build
from dynexport.runtimes.tensorrt.options import BuildOptions

RTX = EDITIONS["tensorrt-rtx"]
needs_rtx = pytest.mark.skipif(RTX.version() is None, reason="tensorrt-rtx is not installed")

FLOAT, HALF, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL
INT8, INT32, INT64 = TensorProto.INT8, TensorProto.INT32, TensorProto.INT64

Value = tuple[str, Sequence[int | str] | None, int]
"""Name, shape and type of an input or output."""


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its first output."""
    names = outputs.split()
    return helper.make_node(op_type, inputs.split(), names, name=f"n/{names[0]}", **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    *,
    opset: int = 20,
    **constants: Any,
) -> onnx.ModelProto:
    """A model of these nodes; constants are arrays by name."""
    takes, gives = (
        [helper.make_tensor_value_info(n, t, s) for n, s, t in end] for end in (inputs, outputs)
    )
    arrays = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", takes, gives, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def unary(op_type: str, shape: Any, **attributes: Any) -> onnx.ModelProto:
    return model_of(
        [node(op_type, "x", "y", **attributes)], [("x", shape, FLOAT)], [("y", None, FLOAT)]
    )


def check(model: onnx.ModelProto) -> tuple[Finding, ...]:
    return check_graph(ir.serde.deserialize_model(model))


def told(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    return [(finding.rule, finding.severity, finding.node) for finding in check(model)]


def built(model: onnx.ModelProto) -> EnginePlan:
    return build(RTX, model.SerializeToString(), (), BuildOptions())


def skip_with_a_gpu() -> None:
    """For what is only said where there is none."""
    try:
        cuda.current_device()
    except DeviceError:
        return
    pytest.skip("a GPU is here")
