"""ONNX export: interface, leanness, determinism, metadata."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch

from dynexport.conversion import Conversion, Recipe, convert
from dynexport.errors import InputError
from dynexport.files import sha256_of
from dynexport.formats.onnx_file import read_metadata, read_model
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.functions import ONNXRUNTIME, inline_functions
from dynexport.models import Output, SparseModel, Tokens
from dynexport.pytorch.export import record_reference
from dynexport.runtimes import open_runner
from dynexport.schedule import Selection

SHAPE_ARITHMETIC = {"Shape", "Range", "If", "Loop", "Expand", "ConstantOfShape", "NonZero"}
TRAINING = {"Dropout", "RandomNormal", "RandomUniform", "Bernoulli", "LogSoftmax"}


def operators(path: str | Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in inline_functions(read_model(path)).graph:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def interface(path: str | Path) -> dict[str, tuple[int, list[int | str]]]:
    """Name -> element type and shape of every input and output."""
    graph = onnx.load(str(path)).graph
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }


def test_interface_of_a_static_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "static.onnx"
    convert(Recipe(tiny_checkpoint, ratio=0.7, batch=2, emit_kept=True, output=path))
    assert interface(path) == {
        "images": (onnx.TensorProto.FLOAT, [2, 3, 28, 28]),
        "logits": (onnx.TensorProto.FLOAT, [2, 10]),
        "kept_0": (onnx.TensorProto.INT64, [2, 34]),
        "kept_1": (onnx.TensorProto.INT64, [2, 24]),
        "kept_2": (onnx.TensorProto.INT64, [2, 16]),
    }
    onnx.checker.check_model(str(path), full_check=True)


def test_interface_of_a_dynamic_file(tiny_conversion: Conversion) -> None:
    assert interface(tiny_conversion.onnx) == {
        "images": (onnx.TensorProto.FLOAT, ["batch", 3, 28, 28]),
        "logits": (onnx.TensorProto.FLOAT, ["batch", 10]),
    }
    onnx.checker.check_model(tiny_conversion.onnx, full_check=True)


def test_graph_is_lean(tiny_conversion: Conversion) -> None:
    found = operators(tiny_conversion.onnx)
    facts = tiny_conversion.metadata
    assert not SHAPE_ARITHMETIC & set(found)
    assert not TRAINING & set(found)
    assert found["TopK"] == found["GatherND"] == found["Where"] == 3
    assert "GatherElements" not in found
    assert found["LayerNormalization"] == 4 * 2 + 1 + 3
    assert facts.nodes == sum(found.values())
    assert facts.nodes - facts.nodes_dense == 3 * 19


def test_k_is_a_constant(tiny_conversion: Conversion) -> None:
    graph = onnx.load(tiny_conversion.onnx).graph
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    counts = [int(constants[n.input[1]][0]) - 1 for n in graph.node if n.op_type == "TopK"]
    assert counts == [34, 24, 16]


def test_nodes_and_values_are_named_after_modules(tiny_conversion: Conversion) -> None:
    graph = onnx.load(tiny_conversion.onnx).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {"blocks.0.attn.q/MatMul", "score_predictor.2/TopK", "head/Gemm"} <= set(names)
    assert not any(node.doc_string or node.metadata_props for node in graph.node)


def test_file_does_not_betray_the_machine(tiny_conversion: Conversion) -> None:
    content = Path(tiny_conversion.onnx).read_bytes()
    for word in (str(Path.home()), str(Path(tiny_conversion.onnx).parent), "site-packages"):
        assert word.encode() not in content


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_any_batch_size_gives_the_same_rows(tiny_conversion: Conversion, size: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((7, 3, 28, 28)).astype(np.float32)
    with open_runner("onnxruntime", tiny_conversion.onnx) as runner:
        alone = np.concatenate([runner.run(images[i : i + 1])["logits"] for i in range(size)])
        together = runner.run(images[:size])["logits"]
    assert np.allclose(alone, together, atol=1e-4)


@pytest.mark.exporter
def test_same_input_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        result = convert(
            Recipe(tiny_checkpoint, ratio=0.7, batch=2, output=tmp_path / name / "m.onnx")
        )
        hashes.add((sha256_of(Path(result.onnx)), sha256_of(Path(result.reference))))
    assert len(hashes) == 1


def test_metadata_tells_the_whole_story(tiny_conversion: Conversion, tiny_checkpoint: Path) -> None:
    facts = read_metadata(tiny_conversion.onnx)
    assert (facts.family, facts.variant) == ("deit", "deit")
    assert facts.outputs == {"logits": (10,)}
    assert facts.selection == Selection(nested=True, leading=1)
    assert facts.ratios == (0.7, 0.7**2, 0.7**3)
    assert facts.keep_counts == (34, 24, 16)
    assert facts.num_tokens == 49
    assert facts.checkpoint_sha256 == sha256_of(tiny_checkpoint)
    assert facts.weights == "model"
    assert facts.batch == "1:3:5"
    assert facts.preprocessing.resize is None
    assert {"dynexport", "torch", "onnx"} <= set(facts.versions)


def test_values_the_metadata_name_are_in_the_graph(tiny_conversion: Conversion) -> None:
    facts = read_metadata(tiny_conversion.onnx)
    graph = onnx.load(tiny_conversion.onnx).graph
    made_by = {value: node.op_type for node in graph.node for value in node.output}
    assert [made_by[name] for name in facts.selected] == ["TopK"] * 3
    assert [made_by[name] for name in facts.dense_twin] == ["GatherND"] * 3
    assert set(facts.dense_twin.values()) <= set(made_by)
    joined = {node.op_type for node in graph.node if node.domain == ONNXRUNTIME}
    assert joined == {"BiasGelu", "MultiHeadAttention"}
    assert not {node.domain for node in graph.node} - {"", ONNXRUNTIME}


def test_macs_are_those_of_the_layers(tiny_conversion: Conversion) -> None:
    facts = tiny_conversion.metadata

    def block(tokens: int) -> int:
        return tokens * 12 * 64 * 64 + 2 * tokens * tokens * 64

    def last_block(tokens: int) -> int:
        """Keys and values of all tokens, the rest for the class token alone."""
        return (2 * tokens + 10) * 64 * 64 + 2 * tokens * 64

    stem, head = 49 * 3 * 4 * 4 * 64, 64 * 10
    assert facts.macs_dense == stem + 3 * block(50) + last_block(50) + head
    blocks = sum(map(block, (50, 35, 25))) + last_block(17)
    predictors = facts.macs_sparse - stem - head - blocks
    assert 0 < predictors < 0.12 * facts.macs_sparse


def test_dense_export_and_the_twin_by_graph_edit_agree(
    tiny_checkpoint: Path, tiny_conversion: Conversion, tmp_path: Path
) -> None:
    from dynexport.formats.onnx_file import read_model, to_bytes
    from dynexport.graph.twin import dense_twin

    dense = convert(
        Recipe(tiny_checkpoint, dense=True, batch="1:3:5", output=tmp_path / "dense.onnx")
    )
    assert dense.metadata.ratios is None
    assert (dense.metadata.selected, dense.metadata.dense_twin) == ((), {})
    assert (
        dense.metadata.nodes == dense.metadata.nodes_dense == tiny_conversion.metadata.nodes_dense
    )
    assert dense.metadata.macs_sparse == dense.metadata.macs_dense
    twin = to_bytes(
        dense_twin(read_model(tiny_conversion.onnx), tiny_conversion.metadata.dense_twin)
    )
    images = np.random.default_rng(0).standard_normal((4, 3, 28, 28)).astype(np.float32)
    with open_runner("onnxruntime", dense.onnx) as a, open_runner("onnxruntime", twin) as b:
        assert np.allclose(a.run(images)["logits"], b.run(images)["logits"], atol=1e-5)


def test_keeping_everything_and_keeping_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    everything = convert(Recipe(tiny_checkpoint, ratios="1,1,1", output=tmp_path / "all.onnx"))
    assert everything.metadata.keep_counts == (49, 49, 49)
    one = convert(Recipe(tiny_checkpoint, ratios="0.5,0.1,0.03", output=tmp_path / "one.onnx"))
    assert one.metadata.keep_counts == (24, 4, 1)


def test_one_class(tmp_path: Path, tiny_model: Any) -> None:
    from dynexport.models.deit import DynamicDeiT

    torch.manual_seed(0)
    model = DynamicDeiT(dataclasses.replace(tiny_model.config, num_classes=1))
    args = {"pruning_loc": [1, 2, 3], "base_rate": 0.7}
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "one.pth")
    result = convert(Recipe(tmp_path / "one.pth", output=tmp_path / "one.onnx"))
    assert result.metadata.outputs == {"logits": (1,)}
    assert result.verification.passed


def test_images_given_are_the_ones_recorded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 3), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", images=images)
    result = convert(
        Recipe(tiny_checkpoint, images=tmp_path / "digits.npz", output=tmp_path / "m.onnx", batch=3)
    )
    recorded = ReferenceBundle.load(result.reference).images
    assert len(recorded) == 8
    assert all((images == image).all(axis=(1, 2, 3)).any() for image in recorded)


@pytest.mark.parametrize("opset", [20, 21, 23])
def test_opsets(tiny_checkpoint: Path, tmp_path: Path, opset: int) -> None:
    result = convert(Recipe(tiny_checkpoint, opset=opset, output=tmp_path / "m.onnx", batch=1))
    declared = {i.domain: i.version for i in onnx.load(result.onnx).opset_import}
    assert declared == {"": opset, ONNXRUNTIME: 1}


def test_a_file_for_tensorrt_holds_standard_operators_alone(
    tiny_checkpoint: Path, tiny_conversion: Conversion, tmp_path: Path
) -> None:
    result = convert(
        Recipe(tiny_checkpoint, ratio=0.7, target="tensorrt", output=tmp_path / "m.onnx")
    )
    model = onnx.load(result.onnx)
    assert (tiny_conversion.metadata.target, result.metadata.target) == ("any", "tensorrt")
    assert not model.functions
    assert {i.domain for i in model.opset_import} == {""}
    assert operators(result.onnx) == operators(tiny_conversion.onnx)
    with pytest.raises(InputError, match="unknown target 'gpu': choose from any, tensorrt"):
        convert(Recipe(tiny_checkpoint, ratio=0.7, target="gpu", output=tmp_path / "n.onnx"))
    assert not (tmp_path / "n.onnx").exists()


def test_old_opset_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 16 is not supported: choose from"):
        convert(Recipe(tiny_checkpoint, opset=16, output=tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_file_works_where_it_is_moved_to(tiny_conversion: Conversion, tmp_path: Path) -> None:
    """One file, its weights inside, its bundle found beside it."""
    from dynexport.verify import verify_model

    for name in (tiny_conversion.onnx, tiny_conversion.reference):
        shutil.copy(name, tmp_path)
    assert verify_model(tmp_path / "tiny.onnx").passed


@pytest.mark.parametrize(
    ("selection", "scores", "expected"),
    [
        (
            Selection(nested=True, leading=1, appended=1),
            [[4, 3, 2, 1, 0, -1], [7, 6, 5, 9], [3, 1, 2]],
            [
                [4, 3, 2, 1, 0, -1, None, None],
                [6, None, 5, 7, None, None, 9, None],
                [3, None, None, None, None, None, 1, 2],
            ],
        ),
        (
            Selection(nested=False),
            [[4, 3, 2, 1, 0, -1], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 9]],
            [[4, 3, 2, 1, 0, -1], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 9]],
        ),
    ],
    ids=["nested", "grid"],
)
def test_scores_are_recorded_where_their_tokens_stand(
    tiny_conversion: Conversion,
    selection: Selection,
    scores: list[list[float]],
    expected: list[list[float | None]],
) -> None:
    """Six tokens; stages keep 3 0 2, then 6 (appended by the first) and 0, then 7."""
    kept = [[3, 0, 2], [0, 6], [7]] if selection.nested else [[3, 0, 2], [5, 4], [5]]

    def answer(images: torch.Tensor) -> Output:
        tokens = Tokens(
            images,
            scores=tuple(torch.tensor([row], dtype=torch.float32) for row in scores),
            kept=tuple(torch.tensor([row]) for row in kept),
        )
        return Output({"feat_0": images}, tokens)

    facts = dataclasses.replace(
        tiny_conversion.metadata, selection=selection, num_tokens=6, keep_counts=(3, 2, 1)
    )
    images = np.zeros((1, 3, 28, 28), np.float32)
    bundle = record_reference(cast(SparseModel, answer), facts, images)
    assert [row.tolist() for row in bundle.kept] == [[sorted(chosen)] for chosen in kept]
    found = [[s if np.isfinite(s) else None for s in stage[0].tolist()] for stage in bundle.scores]
    assert found == expected
    assert list(bundle.outputs) == ["feat_0"]
