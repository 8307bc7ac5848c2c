"""Operators joined for ONNX Runtime: how many, that answers stay, that every runtime reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from made import tiny as tiny_models
from made.onnx_models import FLOAT, HALF, built, model_of, needs_rtx, node

from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.bias_gelu import fuse_bias_gelu
from dynexport.graph.counts import count_with_twin
from dynexport.graph.functions import ONNXRUNTIME, in_standard, inline_functions
from dynexport.graph.fuse import fuse_operators
from dynexport.graph.multi_head_attention import fuse_attention
from dynexport.graph.twin import dense_twin

RNG = np.random.default_rng(0)
IMAGE = ("images", [1, 3, 8, 8], FLOAT)


def small(bias: np.ndarray, *, swapped: bool = False, **gelu: str) -> ir.Model:
    nodes = [
        node("MatMul", "images w", "y"),
        node("Add", "b y" if swapped else "y b", "z"),
        node("Gelu", "z", "out", **gelu),
    ]
    weight = RNG.standard_normal((8, 8)).astype(np.float32)
    model = model_of(nodes, [IMAGE], [("out", [1, 3, 8, 8], FLOAT)], w=weight, b=bias)
    return ir.serde.deserialize_model(model)


def run(model: ir.Model, images: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(to_bytes(model)).run(None, {"images": images})[0]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_bias_and_its_gelu_are_one_node(swapped: bool) -> None:
    model = small(RNG.standard_normal(8).astype(np.float32), swapped=swapped)
    whole = model.clone()
    assert fuse_bias_gelu(model) == 1
    assert [each.op_type for each in model.graph] == ["MatMul", "BiasGelu"]
    assert next(each.name for each in model.graph if each.domain) == "n/out"
    images = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model, images), run(whole, images), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        small(np.ones((8, 8), np.float32)),
        small(np.ones((1, 8), np.float32)),
        small(np.ones(8, np.float32), approximate="tanh"),
    ],
    ids=["a matrix added", "a row of rank two", "another GELU"],
)
def test_what_the_kernel_does_not_compute_is_left_alone(model: ir.Model) -> None:
    before = to_bytes(model)
    assert fuse_bias_gelu(model) == 0
    assert to_bytes(model) == before


def test_a_sum_that_others_read_is_left_alone() -> None:
    nodes = [node("Add", "images b", "z"), node("Gelu", "z", "out")]
    outputs = [(name, [1, 3, 8, 8], FLOAT) for name in ("out", "z")]
    model = ir.serde.deserialize_model(model_of(nodes, [IMAGE], outputs, b=np.ones(8, np.float32)))
    assert fuse_bias_gelu(model) == 0


def test_graphs_in_half_precision_are_left_alone() -> None:
    nodes = [node("Add", "images b", "z"), node("Gelu", "z", "out")]
    ends = ("images", [1, 3, 8, 8], HALF), ("out", [1, 3, 8, 8], HALF)
    model = model_of(nodes, [ends[0]], [ends[1]], b=np.ones(8, np.float16))
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    assert fuse_operators(graph) == 0


@pytest.mark.parametrize(("family", "attention"), [("deit", 4), ("lvvit", 4), ("swin", 0)])
def test_converted_files_are_joined_and_inline_to_standard_operators(
    tmp_path: Path, family: str, attention: int
) -> None:
    tiny = tiny_models.convert_tiny(tmp_path, family, (0.7, 0.5, 0.3), batch="1:2:3", target="any")
    model = read_model(tmp_path / f"{family}.onnx")
    joined = Counter(each.op_type for each in model.graph)
    assert joined["BiasGelu"] >= 4 + 3, "one a block, and one at least a stage's predictor"
    assert joined["MultiHeadAttention"] == attention
    assert all(each.name for function in model.functions.values() for each in function)
    standard = inline_functions(model.clone())
    assert not standard.functions
    assert ONNXRUNTIME not in standard.opset_imports
    facts = tiny.metadata
    counts = count_with_twin(standard, facts.dense_twin, facts.selected)
    assert (counts.macs_sparse, counts.macs_dense) == (facts.macs_sparse, facts.macs_dense)
    twin = dense_twin(model.clone(), facts.dense_twin)
    assert not {value.name for each in twin.graph for value in each.outputs} & {*facts.selected}
    size = tiny.metadata.preprocessing.img_size
    images = RNG.standard_normal((3, 3, *size)).astype(np.float32)
    np.testing.assert_allclose(run(standard, images), run(model, images), rtol=1e-4, atol=1e-4)


def heads(**changes: list[int]) -> ir.Model:
    """Attention of two heads over nine tokens, as the inference forms lay it out."""
    axes = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3], "back": [0, 2, 1, 3]} | changes
    nodes = [node("Reshape", "images flat", "x")]
    for side in "qkv":
        nodes += [
            node("MatMul", f"x w{side}", f"{side}0"),
            node("Reshape", f"{side}0 split", f"{side}1"),
            node("Transpose", f"{side}1", f"{side}2", perm=axes[side]),
        ]
    nodes += [
        node("MatMul", "q2 k2", "scores"),
        node("Softmax", "scores", "weights", axis=axes.get("softmax", [-1])[0]),
        node("MatMul", "weights v2", "mixed"),
        node("Transpose", "mixed", "turned", perm=axes["back"]),
        node("Reshape", "turned join", "out"),
    ]
    model = model_of(
        nodes,
        [("images", [2, 3, 6, 4], FLOAT)],
        [("out", [2, 9, 8], FLOAT)],
        flat=np.asarray([0, 9, 8]),
        split=np.asarray([0, 0, 2, 4]),
        join=np.asarray([0, 0, 8]),
        **{f"w{side}": RNG.standard_normal((8, 8)).astype(np.float32) for side in "qkv"},
    )
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def test_attention_over_heads_is_one_node() -> None:
    model = heads()
    whole = model.clone()
    assert fuse_attention(model) == 1
    kinds = [each.op_type for each in model.graph]
    assert kinds == ["Reshape", "MatMul", "MatMul", "MatMul", "MultiHeadAttention"]
    images = RNG.standard_normal((2, 3, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(run(model, images), run(whole, images), atol=1e-5)
    np.testing.assert_allclose(
        run(inline_functions(model.clone()), images), run(whole, images), atol=1e-5
    )


@pytest.mark.parametrize("change", [{"softmax": [-2]}, {"q": [0, 2, 1, 3], "softmax": [2]}])
def test_a_softmax_over_another_axis_is_no_attention(change: dict[str, list[int]]) -> None:
    model = heads(**change)
    before = to_bytes(model)
    assert fuse_attention(model) == 0
    assert to_bytes(model) == before


def test_weights_that_others_read_are_computed() -> None:
    """As in EViT, whose tokens are ranked by the class token's attention."""
    model = heads()
    weights = next(each for each in model.graph if each.op_type == "Softmax").outputs[0]
    read = ir.node("Gelu", [weights], name="reader")
    read.outputs[0].name = "read"
    model.graph.append(read)
    model.graph.outputs.append(read.outputs[0])
    assert fuse_attention(model) == 0


def test_onnx_runtime_runs_its_own_kernel(tmp_path: Path) -> None:
    """A static product and its bias would else be one Gemm, and the GELU alone."""
    model = small(RNG.standard_normal(8).astype(np.float32))
    fuse_operators(model)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(to_bytes(model), options)
    ran = onnx.load(options.optimized_model_filepath).graph.node
    assert [(each.domain, each.op_type) for each in ran] == [
        ("", "MatMul"),
        (ONNXRUNTIME, "BiasGelu"),
    ]


@needs_rtx
def test_tensorrt_builds_an_engine_of_it() -> None:
    model = small(RNG.standard_normal(8).astype(np.float32))
    fuse_operators(model)
    for content in (to_bytes(model), to_bytes(in_standard(model))):
        assert built(onnx.load_from_string(content)).content
