"""Graphs of a few nodes in ONNX's textual syntax, and what they answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dynexport.graph.tidy import open_up
from dynexport.runtimes import open_runner

TOKENS = """
    long = Constant <value_ints = [0, 3, 16]> ()
    flat = Reshape (images, long)
    x = Transpose <perm = [0, 2, 1]> (flat)
    scores = ReduceSum <keepdims = 0> (x, last)
"""
"""Of images (B, 3, 4, 4): tokens x (B, 16, 3), and a score each, (B, 16)."""

NUMBERS = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    six = Constant <value_ints = [6]> ()
    sixteen = Constant <value_ints = [16]> ()
    end = Constant <value_ints = [100000]> ()
    last = Constant <value_ints = [-1]> ()
    row = Constant <value_ints = [-1]> ()
"""


def small_graph(
    body: str, outputs: str, *, batch: int | str = 2, opset: int = 20, tokens: bool = True
) -> onnx.ModelProto:
    """A model of images (B, 3, 4, 4); ``body`` may use what `TOKENS` and `NUMBERS` name."""
    graph = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}]>\n'
        f"small (float[{batch}, 3, 4, 4] images) => ({outputs}) {{\n"
        f"{NUMBERS}{TOKENS if tokens else ''}{body}\n}}"
    )
    onnx.checker.check_model(graph)
    return graph


def in_memory(model: onnx.ModelProto) -> ir.Model:
    """As passes take it."""
    graph = ir.serde.deserialize_model(model)
    open_up(graph)
    return graph


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph if node.op_type != "Constant")


def answers(model: ir.Model, batch: int = 2) -> list[NDArray[np.generic]]:
    images = np.random.default_rng(1).normal(0, 1, (batch, 3, 4, 4)).astype(np.float32)
    with open_runner("onnxruntime", model) as runner:
        return list(runner.run(images).values())


def apply(
    run: Callable[[ir.Model], int],
    model: onnx.ModelProto,
    *,
    batch: int = 2,
    tolerance: float = 1e-6,
) -> tuple[int, ir.Model]:
    """How often a pass applied and what it left, which must answer as before within
    ``tolerance`` and be a valid graph; what it says it left alone must be as it was."""
    graph = in_memory(model)
    RemoveUnusedNodesPass()(graph)
    expected = answers(graph, batch)
    counted = operators(graph)
    count = run(graph)
    onnx.checker.check_model(ir.serde.serialize_model(graph), full_check=True)
    for first, second in zip(expected, answers(graph, batch), strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_allclose(first, second, rtol=0, atol=tolerance)
    if not count:
        assert operators(graph) == counted
    return count, graph


UNROLLED = """
    @at = Constant <value_ints = [TOKEN]> ()
    @one = Constant <value_int = 1> ()
    @after = Add (@at, @one)
    @at_axis = Constant <value_ints = [1]> ()
    @row = Slice (NOW, @at, @after, @at_axis)
    @twice = Add (@row, @row)
    @shape = Shape (NOW)
    @first = Constant <value_int = 0> ()
    @images = Gather <axis = 0> (@shape, @first)
    @zero = Constant <value_ints = [0]> ()
    @list = Unsqueeze (@images, @zero)
    @tail = Constant <value_ints = [1, 3]> ()
    @wanted = Concat <axis = 0> (@list, @tail)
    @ones = ConstantOfShape (@wanted)
    @rank = Constant <value_ints = [3]> ()
    @every = ConstantOfShape <value = int64[1] {-1}> (@rank)
    @same = Equal (@wanted, @every)
    @sizes = Where (@same, @every, @wanted)
    @filled = Expand (@twice, @sizes)
    @added = Add (@filled, @ones)
    @before = Slice (NOW, @zero, @at, @at_axis)
    @end = Constant <value_ints = [16]> ()
    @behind = Slice (NOW, @after, @end, @at_axis)
    NEXT = Concat <axis = 1> (@before, @added, @behind)
"""
"""A step of `unrolled_graph`."""


def unrolled_graph(steps: int, *, batch: int | str = "batch") -> onnx.ModelProto:
    """A loop over tokens as an exporter unrolls it: 25 nodes a step, most on sizes alone.

    Each step takes the row of a token, doubles it and writes it back.
    """
    parts = []
    for step in range(steps):
        here = {"NOW": f"x{step}", "NEXT": f"x{step + 1}", "@": f"s{step}_"}
        body = UNROLLED.replace("TOKEN", str(step % 16))
        for word, name in here.items():
            body = body.replace(word, name)
        parts.append(body)
    body = f"x0 = Identity (x) {''.join(parts)} y = ReduceMean <keepdims = 0> (x{steps}, one)"
    return small_graph(body, f"float[{batch}, 3] y", batch=batch)
