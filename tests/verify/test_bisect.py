"""Where a candidate departs: the damaged node is named, in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from made.tiny import Tiny, convert_tiny, ranges_of, write

from dynexport.artifact import find_artifact
from dynexport.graph.half import to_half
from dynexport.graph.linear_layers import find_linear_layers
from dynexport.graph.quantise import quantise
from dynexport.pytorch.model import describe_original
from dynexport.verify import bisect as bisecting
from dynexport.verify import verify_artifact, verify_model
from dynexport.verify.bisect import Bisection

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("deit"), "deit", (0.7, 0.5, 0.3), batch="1:3:5")


def typed(tiny: Tiny, graph: ir.Model, precision: str) -> ir.Model:
    if precision == "fp32":
        return graph
    if precision == "int8":
        layers = [layer for layer in find_linear_layers(tiny.graph) if not layer.ranks]
        return quantise(graph, ranges_of(tiny, layers))
    return to_half(graph, precision, marks=tiny.metadata.dense_twin)  # type: ignore[arg-type]


def departure(
    tiny: Tiny, folder: Path, change: Callable[[ir.Model], None], precision: str = "fp32"
) -> Bisection:
    graph = tiny.graph.clone()
    change(graph)
    path = write(folder, typed(tiny, graph, precision), tiny.bundle)
    original = describe_original(tiny.lean, tiny.metadata)
    result = verify_artifact(
        find_artifact(path), tiny.bundle, "memory", original=original, find_departure=True
    )
    assert result.bisection is not None
    return result.bisection


def scale(name: str, factor: float) -> Callable[[ir.Model], None]:
    def change(graph: ir.Model) -> None:
        value = graph.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy() * np.float32(factor)
        value.const_value = ir.tensor(array.astype(np.float32), name=name)

    return change


def nothing(graph: ir.Model) -> None:
    pass


def test_nothing_departs_in_a_sound_file(tiny: Tiny, tmp_path: Path) -> None:
    found = departure(tiny, tmp_path, nothing)
    assert found.first is None
    assert found.following == ()
    assert found.compared > 100


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize(
    ("weight", "node"),
    [
        ("blocks.1.mlp.fc1/constant", "blocks.1.mlp.fc1/MatMul"),
        ("head.weight", "head/Gemm"),
    ],
)
def test_the_damaged_node_is_named(
    tiny: Tiny, tmp_path: Path, weight: str, node: str, precision: str
) -> None:
    """Though values go through Casts or through int8 where the sound graph has none."""
    found = departure(tiny, tmp_path, scale(weight, 1.5), precision)
    assert found.first is not None
    assert found.sudden
    assert (found.first.node, found.first.operator) == (node, node.rpartition("/")[2])
    assert found.first.error == pytest.approx(0.5, rel=0.3)
    assert found.first.inputs < 0.15
    assert len(found.following) <= 3


def test_a_wrong_choice_is_named_too(tiny: Tiny, tmp_path: Path) -> None:
    def change(graph: ir.Model) -> None:
        top_k = [node for node in graph.graph if node.op_type == "TopK"]
        top_k[1].attributes["largest"] = ir.AttrInt64("largest", 0)

    found = departure(tiny, tmp_path, change)
    assert found.first is not None
    assert found.first.node == "score_predictor.1/TopK"
    assert found.first.error > 0.1  # its values: scores, and one above the highest


def test_values_are_fetched_in_bounded_runs(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = departure(tiny, tmp_path, scale("blocks.1.mlp.fc1/constant", 1.5))
    monkeypatch.setattr(bisecting, "AT_ONCE", 1 << 20)
    assert departure(tiny, tmp_path, scale("blocks.1.mlp.fc1/constant", 1.5)) == whole


@pytest.mark.parametrize("family", ["convnext", "evit"])
def test_other_families_are_bisected(family: str, tmp_path: Path) -> None:
    ratios = (0.7, 0.5, 0.3)
    tiny = convert_tiny(tmp_path, family, ratios, batch="2")
    assert departure(tiny, tmp_path, nothing).first is None
    layers = [p.node for p in find_linear_layers(tiny.graph) if not p.ranks]
    node = next(n for n in tiny.graph.graph if n.name == layers[len(layers) // 2])
    weight = node.inputs[1]
    assert weight is not None
    found = departure(tiny, tmp_path, scale(str(weight.name), 1.5))
    assert found.first is not None
    assert found.first.node == node.name


def test_a_dense_model_is_bisected(tmp_path: Path) -> None:
    tiny = convert_tiny(tmp_path, "deit", None, batch="2")
    found = departure(tiny, tmp_path, scale("blocks.3.attn.proj/constant", 2.0))
    assert found.first is not None
    assert found.first.node == "blocks.3.attn.proj/MatMul"
    assert verify_model(tmp_path / "tiny.onnx").failures != ()
