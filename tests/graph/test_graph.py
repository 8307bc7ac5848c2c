"""Graph passes: how often each applied, and that nothing else changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dynexport.conversion import Conversion
from dynexport.errors import DynexportError, ModelFileError
from dynexport.formats.metadata import Batch, Metadata
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.batch import free_batch, set_batch
from dynexport.graph.macs import count_macs
from dynexport.graph.selection import add_kept_outputs, find_selected, kept_outputs, named_values
from dynexport.graph.twin import MARK, dense_twin, read_marks
from dynexport.models import create, find_variant
from dynexport.pytorch.macs import count_macs as count_module_macs
from dynexport.pytorch.rewrite import oracle, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import Selection, power_schedule, schedule_from_base


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 28, 28)).astype(np.float32)


def test_kept_outputs_are_added_once_and_change_no_logits(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    before = graph.graph.num_nodes()
    names = add_kept_outputs(graph, tiny_conversion.metadata)
    assert names == kept_outputs(graph) == ("kept_0", "kept_1", "kept_2")
    added = graph.graph.num_nodes() - before
    assert added == 3 * 3 + 2
    assert add_kept_outputs(graph, tiny_conversion.metadata) == names
    assert graph.graph.num_nodes() == before + added
    images = random_images(4)
    with (
        open_runner("onnxruntime", tiny_conversion.onnx) as plain,
        open_runner("onnxruntime", to_bytes(graph)) as probe,
    ):
        assert np.array_equal(plain.run(images)["logits"], probe.run(images)["logits"])


def test_kept_positions_are_nested(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    names = add_kept_outputs(graph, tiny_conversion.metadata)
    with open_runner("onnxruntime", to_bytes(graph)) as runner:
        kept = [runner.run(random_images(3))[name] for name in names]
    for rows in zip(*kept, strict=True):
        sets = [set(row.tolist()) for row in rows]
        assert sets[2] < sets[1] < sets[0] < set(range(49))


def test_dense_twin_bypasses_each_selection_once(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    add_kept_outputs(graph, tiny_conversion.metadata)
    twin = dense_twin(graph, tiny_conversion.metadata.dense_twin)
    operators = {node.op_type for node in twin.graph}
    assert not operators & {"TopK", "GatherND", "Sub", "GatherElements"}
    assert kept_outputs(twin) == ()
    assert not [name for name in twin.graph.initializers if "score_predictor" in name]


def test_a_graph_that_selects_nothing_has_no_dense_twin(tiny_conversion: Conversion) -> None:
    marks = tiny_conversion.metadata.dense_twin
    twin = dense_twin(read_model(tiny_conversion.onnx), marks)
    with pytest.raises(ModelFileError, match="drops nothing: it has no dense twin but itself"):
        dense_twin(twin, {})
    with pytest.raises(ModelFileError, match=r"speak of a value .* is not in its graph"):
        dense_twin(twin, marks)


def small_graph(nodes: list[ir.Node], inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 20, MARK[0]: 1})
    return ir.Model(graph, ir_version=10)


def float_value(name: str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))


def unary(op_type: str, name: str, value: ir.Value) -> ir.Node:
    node = ir.node(op_type, [value], name=name)
    node.outputs[0].name = name
    return node


def test_marks_are_read_out_of_a_graph_and_name_its_dense_twin() -> None:
    """x -> Relu -> (mark: x in its place) -> Neg -> y."""
    x, relu = float_value("x"), unary("Relu", "relu", float_value("x"))
    relu.replace_input_with(0, x)
    mark = ir.node(MARK[1], [relu.outputs[0], x], domain=MARK[0], name="mark")
    neg = unary("Neg", "y", mark.outputs[0])
    neg.outputs[0].shape, neg.outputs[0].type = x.shape, x.type
    model = small_graph([relu, mark, neg], [x], list(neg.outputs))
    marks = read_marks(model)
    assert marks == {"relu": "x"}
    assert [node.op_type for node in model.graph] == ["Relu", "Neg"]
    assert set(model.opset_imports) == {""}
    assert read_marks(model) == {}
    twin = dense_twin(model, marks)
    assert [(node.op_type, node.inputs[0].name) for node in twin.graph] == [("Neg", "x")]


def test_what_takes_a_values_place_may_be_replaced_itself() -> None:
    """x -> Relu -> Neg -> Abs -> y, where Relu gives way to x and Neg to Relu."""
    x = float_value("x")
    relu = unary("Relu", "relu", x)
    neg = unary("Neg", "neg", relu.outputs[0])
    end = unary("Abs", "y", neg.outputs[0])
    end.outputs[0].shape, end.outputs[0].type = x.shape, x.type
    model = small_graph([relu, neg, end], [x], list(end.outputs))
    twin = dense_twin(model, {"relu": "x", "neg": "relu"})
    assert [(node.op_type, node.inputs[0].name) for node in twin.graph] == [("Abs", "x")]


def test_marks_that_go_in_a_circle_are_refused(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    first, second = list(tiny_conversion.metadata.dense_twin)[:2]
    with pytest.raises(ModelFileError, match="are damaged; convert the checkpoint again"):
        dense_twin(graph, {first: second, second: first})


def test_the_choice_of_a_stage_is_its_sparsifiers_first_top_k() -> None:
    x = float_value("x")
    names = ["p.1/TopK", "p.0/TopK", "p.0.inner/TopK", "p.10/TopK", "other/TopK"]
    nodes = [ir.node("TopK", [x], num_outputs=2, name=name) for name in names]
    for node in nodes:
        node.outputs[1].name = f"{node.name}.1"
    model = small_graph(nodes, [x], [nodes[0].outputs[0]])
    assert find_selected(model, "p", 2) == ("p.0/TopK.1", "p.1/TopK.1")
    assert find_selected(model, "p", 0) == ()
    with pytest.raises(DynexportError, match=r"the sparsifier p\.2 was exported without a top-k"):
        find_selected(model, "p", 3)


def test_a_value_the_metadata_name_must_be_there(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    facts = tiny_conversion.metadata
    assert list(named_values(graph, facts.selected)) == list(facts.selected)
    with pytest.raises(ModelFileError, match=r"a value 'gone', which is not in its graph"):
        add_kept_outputs(graph, dataclasses.replace(facts, selected=("gone", "b", "c")))
    assert kept_outputs(graph) == ()


def kept_from(rows: list[list[list[int]]], metadata: Metadata) -> list[list[list[int]]]:
    """What the outputs ``kept_0 ...`` say where each stage selected ``rows`` (B, K)."""
    arrays = {f"rows_{stage}": np.array(chosen)[..., None] for stage, chosen in enumerate(rows)}
    inputs = [
        ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.INT64))
        for name, array in arrays.items()
    ]
    model = small_graph([], inputs, [])
    del model.opset_imports[MARK[0]]
    names = add_kept_outputs(model, dataclasses.replace(metadata, selected=tuple(arrays)))
    evaluator = ReferenceEvaluator(ir.serde.serialize_model(model))
    return [array.tolist() for array in evaluator.run(list(names), arrays)]


@pytest.mark.parametrize(
    ("selection", "rows", "kept"),
    [
        (
            Selection(nested=False),
            [[[5, 1, 3, 0]], [[2, 4, 0, 1]], [[1, 0, 2, 3]]],
            [[[5, 1, 3]], [[2, 4]], [[1]]],
        ),
        (
            Selection(nested=True),
            [[[5, 1, 3]], [[2, 0]], [[1]]],
            [[[5, 1, 3]], [[3, 5]], [[5]]],
        ),
        (
            Selection(nested=True, leading=1),
            [[[0, 6, 2, 4]], [[0, 3, 1]], [[0, 2]]],
            [[[5, 1, 3]], [[3, 5]], [[5]]],
        ),
        (
            Selection(nested=True, leading=1, appended=1),
            [[[0, 6, 2, 4]], [[0, 4, 1]], [[0, 3]]],
            [[[5, 1, 3]], [[6, 5]], [[7]]],
        ),
        (
            Selection(nested=True, appended=2),
            [[[5, 1, 3]], [[4, 3]], [[3]]],
            [[[5, 1, 3]], [[7, 6]], [[9]]],
        ),
    ],
    ids=str,
)
def test_rows_selected_are_read_as_positions(
    tiny_conversion: Conversion,
    selection: Selection,
    rows: list[list[list[int]]],
    kept: list[list[list[int]]],
) -> None:
    """A grid of six: rows are shifted by the leading ones, and appended tokens are 6, 7 ..."""
    facts = dataclasses.replace(
        tiny_conversion.metadata, selection=selection, num_tokens=6, keep_counts=(3, 2, 1)
    )
    assert kept_from(rows, facts) == kept


def test_a_fixed_batch_leaves_no_free_dimension(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    set_batch(graph, Batch(6, 6, 6))
    shapes = [value.shape for node in graph.graph for value in node.outputs]
    assert all(isinstance(size, int) for shape in shapes if shape for size in shape)
    with open_runner("onnxruntime", to_bytes(graph)) as runner:
        assert runner.run(random_images(6))["logits"].shape == (6, 10)


def test_a_reshape_computed_at_run_time_is_a_fault() -> None:
    x, shape = (ir.Value(name=n) for n in ("x", "shape"))
    node = ir.node("Reshape", [x, shape], name="late")
    graph = ir.Graph([x, shape], [node.outputs[0]], nodes=[node], opset_imports={"": 20})
    with pytest.raises(DynexportError, match="node late: a Reshape to a shape computed at run"):
        free_batch(ir.Model(graph, ir_version=10))


@pytest.mark.parametrize(
    ("after", "target", "freed"),
    [
        ([2, 2, 3], [-1, 2, 3], [0, 2, 3]),  # windows that are put together: the batch stays
        ([2, 6], [2, 6], [0, 0]),
        ([4, 3], [-1, 3], [-1, 3]),
        ([4, 3], [4, 3], [-1, 3]),
    ],
)
def test_a_reshape_copies_the_batch_where_it_stays(
    after: list[int], target: list[int], freed: list[int]
) -> None:
    x = ir.Value(name="x", shape=ir.Shape([2, 6]), type=ir.TensorType(ir.DataType.FLOAT))
    shape = ir.Value(name="shape", const_value=ir.tensor(target))
    node = ir.node("Reshape", [x, shape], name="windows")
    node.outputs[0].shape = ir.Shape(after)
    graph = ir.Graph(
        [x], [node.outputs[0]], nodes=[node], initializers=[shape], opset_imports={"": 20}
    )
    assert free_batch(ir.Model(graph, ir_version=10)) == 1
    assert node.inputs[1] is not None
    assert node.inputs[1].const_value is not None
    assert node.inputs[1].const_value.numpy().tolist() == freed


def test_macs_of_the_graph_are_those_of_the_module(tiny_conversion: Conversion) -> None:
    from dynexport.models.deit import DeiTConfig, DynamicDeiT

    facts = tiny_conversion.metadata
    model = DynamicDeiT(DeiTConfig(**facts.config))
    keep = schedule_from_base(power_schedule, 0.7, 3)
    assert count_macs(read_model(tiny_conversion.onnx)) == facts.macs_sparse
    assert count_module_macs(rewrite(model, keep)) - facts.macs_sparse == dead_macs(left=16)
    assert count_module_macs(oracle(model, None)) - facts.macs_dense == dead_macs(left=49)


def dead_macs(left: int, dim: int = 64, mlp_dim: int = 256) -> int:
    """What the last block would compute for the ``left`` patches that its head does not read:
    queries, attention to all rows, projection, MLP."""
    return left * (2 * dim * dim + 2 * (1 + left) * dim + 2 * dim * mlp_dim)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("deit-256", (2.14, 1.87, 1.37, 1.03)),
        ("deit-s", (4.60, 4.04, 2.98, 2.23)),
        ("deit-b", (17.56, 15.51, 11.48, 8.56)),
        ("lvvit-s", (6.55, 5.88, 4.65, 3.79)),
        ("lvvit-m", (12.68, 11.21, 8.59, 6.74)),
        ("convnext-t", (4.46, 3.91, 3.58, 3.26)),
        ("convnext-s", (8.68, 6.76, 5.77, 4.81)),
        ("convnext-b", (15.35, 11.93, 10.18, 8.46)),
        ("swin-t", (4.49, 4.25, 4.04, 3.84)),
        ("swin-s", (8.74, 7.50, 6.85, 6.20)),
        ("swin-b", (15.43, 13.23, 12.06, 10.92)),
    ],
)
@pytest.mark.slow
def test_macs_are_the_published_ones(name: str, macs: tuple[float, ...]) -> None:
    """arXiv 2207.01580, to 1 %: dense, 0.9, 0.7, 0.5; in G."""
    schedule = find_variant(name)[0].schedule
    with torch.device("meta"):
        model = create(name)
        counted = [count_module_macs(oracle(model, None))]
        for ratio in (0.9, 0.7, 0.5):
            keep = schedule_from_base(schedule, ratio, 3)
            counted.append(count_module_macs(rewrite(model, keep)))
    assert [count / 1e9 for count in counted] == pytest.approx(macs, rel=0.01)
