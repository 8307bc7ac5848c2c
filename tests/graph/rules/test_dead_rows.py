"""Rows that nothing reads: what is narrowed to the one row read, and what must be left whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import tiny as tiny_models
from made.onnx_models import FLOAT, model_of, node

from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.batch import infer_shapes
from dynexport.graph.macs import count_macs
from dynexport.graph.rules.dead_rows import cut_dead_rows
from dynexport.graph.twin import dense_twin

RNG = np.random.default_rng(0)
WIDTH, HEADS = 8, 2


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def block(*, tokens: int = 5, reader: str = "Gather", row: int | list[int] = 0) -> onnx.ModelProto:
    """Attention and an MLP over images taken for tokens, and a head that reads one row."""
    split = [0, 0, HEADS, WIDTH // HEADS]
    nodes = [
        node("LayerNormalization", "x g b", "n"),
        node("MatMul", "n wq", "q0"),
        node("Add", "q0 b", "q1"),
        node("Reshape", "q1 split", "q2"),
        node("Transpose", "q2", "q", perm=[0, 2, 1, 3]),
        node("MatMul", "n wk", "k0"),
        node("Reshape", "k0 split", "k1"),
        node("Transpose", "k1", "k", perm=[0, 2, 3, 1]),
        node("MatMul", "q k", "s"),
        node("Softmax", "s", "a", axis=-1),
        node("MatMul", "n wv", "v0"),
        node("Reshape", "v0 split", "v1"),
        node("Transpose", "v1", "v", perm=[0, 2, 1, 3]),
        node("MatMul", "a v", "m0"),
        node("Transpose", "m0", "m1", perm=[0, 2, 1, 3]),
        node("Reshape", "m1 join", "m"),
        node("MatMul", "m wo", "o"),
        node("Add", "o offset", "shifted"),
        node("Add", "x shifted", "y"),
        node("MatMul", "y w1", "h0"),
        node("Gelu", "h0", "h"),
        node("MatMul", "h w2", "z0"),
        node("Add", "y z0", "z"),
        node(reader, "z row", "logits", **({"axis": 1} if reader == "Gather" else {})),
    ]
    square = {name: weights(WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo", "w1", "w2")}
    model = model_of(
        nodes,
        [("x", [2, tokens, WIDTH], FLOAT)],
        [("logits", None, FLOAT)],
        g=weights(WIDTH),
        b=weights(WIDTH),
        offset=weights(1, tokens, WIDTH),
        split=np.asarray(split),
        join=np.asarray([0, 0, WIDTH]),
        row=np.asarray(row),
        **square,
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def answers(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(to_bytes(model)).run(None, {"x": x})[0]


@pytest.mark.parametrize("row", [0, 3, -1, [2]])
def test_all_but_keys_and_values_are_narrowed_to_the_row_read(row: int | list[int]) -> None:
    model = ir.serde.deserialize_model(block(row=row))
    whole = model.clone()
    before = {each.name for each in model.graph}
    assert cut_dead_rows(model) == 16
    infer_shapes(model)
    added = {each.name for each in model.graph} - before
    assert added == {"n/Slice", "n/Slice_1", "n/Slice_2"}, "of the norm, of x and of the offset"
    rows = {value.name: value.shape[-2] for each in model.graph for value in each.outputs}
    assert rows["q0"] == rows["h0"] == rows["o"] == 1
    assert rows["k0"] == rows["v0"] == 5
    x = weights(2, 5, WIDTH)
    np.testing.assert_allclose(answers(model, x), answers(whole, x), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 9), st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_any_row_of_any_number_of_tokens(tokens: int, row: int, seed: int) -> None:
    model = ir.serde.deserialize_model(block(tokens=tokens, row=row % tokens))
    whole = model.clone()
    assert cut_dead_rows(model)
    infer_shapes(model)
    x = np.random.default_rng(seed).standard_normal((2, tokens, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(answers(model, x), answers(whole, x), rtol=1e-4, atol=1e-4)


def left_alone(model: onnx.ModelProto) -> None:
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    before = to_bytes(graph)
    assert cut_dead_rows(graph) == 0
    assert to_bytes(graph) == before


def test_two_rows_read_leave_the_graph_as_it_is() -> None:
    left_alone(block(row=[0, 1]))


def test_two_readers_of_different_rows_leave_it_as_it_is() -> None:
    nodes = [
        node("MatMul", "x w", "y"),
        node("Gather", "y first", "a", axis=1),
        node("Gather", "y second", "b", axis=1),
        node("Add", "a b", "z"),
    ]
    ends = [("x", [2, 5, 8], FLOAT)], [("z", None, FLOAT)]
    rows = {"first": np.asarray(0), "second": np.asarray(1)}
    left_alone(model_of(nodes, *ends, w=weights(8, 8), **rows))


def test_a_row_of_an_output_is_computed_with_the_others() -> None:
    nodes = [node("MatMul", "x w", "y"), node("Gather", "y row", "z", axis=1)]
    ends = [("x", [2, 5, 8], FLOAT)], [("z", None, FLOAT), ("y", None, FLOAT)]
    left_alone(model_of(nodes, *ends, w=weights(8, 8), row=np.asarray(0)))


def test_rows_that_mix_before_the_reader_are_all_computed() -> None:
    nodes = [
        node("MatMul", "x w", "y"),
        node("Softmax", "y", "mixed", axis=1),
        node("Gather", "mixed row", "z", axis=1),
    ]
    ends = [("x", [2, 5, 8], FLOAT)], [("z", None, FLOAT)]
    left_alone(model_of(nodes, *ends, w=weights(8, 8), row=np.asarray(0)))


def test_a_row_of_the_batch_is_not_mistaken_for_a_token() -> None:
    nodes = [node("MatMul", "x w", "y"), node("Gather", "y row", "z", axis=2)]
    ends = [("x", [2, 5, 8], FLOAT)], [("z", None, FLOAT)]
    left_alone(model_of(nodes, *ends, w=weights(8, 8), row=np.asarray(0)))


def test_nothing_is_done_where_no_product_becomes_smaller() -> None:
    nodes = [node("Gelu", "x", "y"), node("Gather", "y row", "z", axis=1)]
    left_alone(model_of(nodes, [("x", [2, 5, 8], FLOAT)], [("z", None, FLOAT)], row=np.asarray(0)))


def test_the_last_block_of_a_deit_computes_the_class_token_alone(tmp_path: Path) -> None:
    tiny = tiny_models.convert_tiny(tmp_path, "deit", (0.7, 0.5, 0.3), batch="2")
    last = f"blocks.{tiny.metadata.config['depth'] - 1}"
    rows = {
        str(each.name): each.outputs[0].shape[-2]
        for each in tiny.graph.graph
        if each.op_type == "MatMul" and str(each.name).startswith(last)
    }
    assert rows.pop(f"{last}.attn.k/MatMul") > 1 < rows.pop(f"{last}.attn.v/MatMul")
    assert set(rows.values()) == {1}
    twin = dense_twin(tiny.graph.clone(), tiny.metadata.dense_twin)
    assert count_macs(twin) == tiny.metadata.macs_dense


@pytest.mark.parametrize("family", ["lvvit", "swin", "convnext"])
def test_heads_that_read_every_token_have_no_dead_rows(tmp_path: Path, family: str) -> None:
    tiny = tiny_models.convert_tiny(tmp_path, family, (0.7, 0.5, 0.3), batch="2")
    assert cut_dead_rows(tiny.graph) == 0
