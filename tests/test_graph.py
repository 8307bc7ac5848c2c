"""Graph passes: how often each applied, and that nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from dynexport.backends import open_runner
from dynexport.errors import DynexportError, ModelFileError
from dynexport.graph.batch import free_batch, set_batch
from dynexport.graph.macs import count_macs
from dynexport.graph.selection import add_kept_outputs, dense_twin, kept_outputs, top_k_nodes
from dynexport.keep import schedule_from_base
from dynexport.macs import count_macs as count_module_macs
from dynexport.metadata import Batch
from dynexport.models import create
from dynexport.onnxfile import read_model, to_bytes
from dynexport.pipeline import Conversion
from dynexport.rewrite import oracle, rewrite


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 28, 28)).astype(np.float32)


def test_kept_outputs_are_added_once_and_change_no_logits(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    before = graph.graph.num_nodes()
    names = add_kept_outputs(graph, "nested")
    assert names == kept_outputs(graph) == ("kept_0", "kept_1", "kept_2")
    added = graph.graph.num_nodes() - before
    assert added == 3 * 3 + 2
    assert add_kept_outputs(graph, "nested") == names
    assert graph.graph.num_nodes() == before + added
    images = random_images(4)
    with (
        open_runner("onnxruntime", tiny_conversion.onnx) as plain,
        open_runner("onnxruntime", to_bytes(graph)) as probe,
    ):
        assert np.array_equal(plain.run(images)["logits"], probe.run(images)["logits"])


def test_kept_positions_are_nested(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    names = add_kept_outputs(graph, "nested")
    with open_runner("onnxruntime", to_bytes(graph)) as runner:
        kept = [runner.run(random_images(3))[name] for name in names]
    for rows in zip(*kept, strict=True):
        sets = [set(row.tolist()) for row in rows]
        assert sets[2] < sets[1] < sets[0] < set(range(49))


def test_dense_twin_bypasses_each_selection_once(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    add_kept_outputs(graph, "nested")
    twin = dense_twin(graph)
    operators = {node.op_type for node in twin.graph}
    assert not operators & {"TopK", "GatherND", "Sub", "GatherElements"}
    assert kept_outputs(twin) == ()
    assert not [name for name in twin.graph.initializers if "score_predictor" in name]


def test_a_graph_that_selects_nothing_has_no_dense_twin(tiny_conversion: Conversion) -> None:
    twin = dense_twin(read_model(tiny_conversion.onnx))
    assert top_k_nodes(twin) == []
    with pytest.raises(ModelFileError, match="takes no rows by a top-k"):
        dense_twin(twin)


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


def test_macs_of_the_graph_are_those_of_the_module(tiny_conversion: Conversion) -> None:
    from dynexport.models.deit import DeiTConfig, DynamicDeiT

    facts = tiny_conversion.metadata
    model = DynamicDeiT(DeiTConfig(**facts.config))
    keep = schedule_from_base("power", 0.7, 3)
    assert count_macs(read_model(tiny_conversion.onnx)) == facts.macs_sparse
    assert count_module_macs(rewrite(model, keep)) == facts.macs_sparse
    assert count_module_macs(oracle(model, None)) == facts.macs_dense


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("deit-256", (2.14, 1.87, 1.37, 1.03)),
        ("deit-s", (4.60, 4.04, 2.98, 2.23)),
        ("lvvit-s", (6.55, 5.88, 4.65, 3.79)),
    ],
)
def test_macs_are_the_published_ones(name: str, macs: tuple[float, ...]) -> None:
    """arXiv 2207.01580, to 1 %: dense, 0.9, 0.7, 0.5; in G."""
    with torch.device("meta"):
        model = create(name)
        counted = [count_module_macs(oracle(model, None))]
        for ratio in (0.9, 0.7, 0.5):
            keep = schedule_from_base("power", ratio, 3)
            counted.append(count_module_macs(rewrite(model, keep)))
    assert [count / 1e9 for count in counted] == pytest.approx(macs, rel=0.01)
