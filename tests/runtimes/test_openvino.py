"""OpenVINO, for real: the same answers as ONNX Runtime's, and refusals in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from made.onnx_models import FLOAT, HALF, model_of, node
from made.tiny import Tiny, convert_tiny, take_batches, typed, write
from numpy.typing import NDArray
from onnx import TensorProto

from dynexport.bench import bench_model
from dynexport.bench.layer_groups import GROUPS
from dynexport.bench.timing import Plan
from dynexport.errors import DeviceError, InputError, MissingExtraError, ModelFileError
from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.replay import replay_selection, rows_of
from dynexport.runtimes import LayerRunner, open_runner, require_runtime, runtimes
from dynexport.verify import verify_model

RATIOS = (0.7, 0.5, 0.3)
FORMS = ("sparse", "dense")
BRIEFLY = Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0)


@pytest.fixture(scope="module", params=["deit", "lvvit", "swin", "convnext"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("tiny"), request.param, RATIOS, batch="1:3:5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a DeiT was converted: deit.pth, deit.onnx and its bundle."""
    return tmp_path_factory.mktemp("deit")


@pytest.fixture(scope="module")
def deit(folder: Path) -> Tiny:
    return convert_tiny(folder, "deit", RATIOS, batch="1:3:5")


def images_for(tiny: Tiny, batch: int) -> NDArray[np.float32]:
    size = tiny.metadata.preprocessing.img_size
    return np.random.default_rng(batch).normal(size=(batch, 3, size, size)).astype(np.float32)


def cast(source: int, target: int, *shape: int | str) -> bytes:
    """A graph that turns ``images`` of one type into ``y`` of another."""
    cast_node = node("Cast", "images", "y", to=target)
    model = model_of([cast_node], [("images", shape, source)], [("y", shape, target)])
    content: bytes = model.SerializeToString()
    return content


# ---------------------------------------------------------------- answers


def test_answers_are_those_of_onnx_runtime_at_every_batch(tiny: Tiny) -> None:
    content = to_bytes(tiny.graph)
    with (
        open_runner("onnxruntime", content, threads=1) as theirs,
        open_runner("openvino", content, threads=1) as ours,
    ):
        for batch in (1, 3, 5, 1):
            images = images_for(tiny, batch)
            expected, found = theirs.run(images), ours.run(images)
            assert found.keys() == expected.keys() == {"logits"}
            assert found["logits"].dtype == np.float32
            np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=1e-5)


def test_a_choice_is_replayed(tiny: Tiny) -> None:
    """That of other images; and where none is fed, none is made up."""
    graph = tiny.graph.clone()
    names, counts = zip(*replay_selection(graph, tiny.metadata), strict=True)
    kept = tuple(positions[3:5] for positions in tiny.bundle.kept)
    choice = dict(zip(names, rows_of(kept, counts, tiny.metadata), strict=True))
    images, content = tiny.bundle.inputs(tiny.metadata.preprocessing)[:2], to_bytes(graph)
    with (
        open_runner("onnxruntime", content, threads=1) as theirs,
        open_runner("openvino", content, threads=1) as ours,
    ):
        expected, found = theirs.run(images, choice)["logits"], ours.run(images, choice)["logits"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        with pytest.raises(ModelFileError, match=r"it takes images, replay_0, .* given images$"):
            ours.run(images)
    assert np.abs(found - tiny.bundle.outputs["logits"][:2]).max() > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_file_is_verified_in_openvino(tiny: Tiny, precision: str, tmp_path: Path) -> None:
    result = verify_model(write(tmp_path, typed(tiny, precision), tiny.bundle), backend="openvino")
    assert result.passed, result.failures
    half = ", half precision computed in float32" if precision in ("fp16", "bf16") else ""
    assert result.backend == f"openvino{half}"
    assert result.batch_sizes == (1, 3, 4)


def test_int8_is_computed_in_int8(deit: Tiny) -> None:
    """The answers are ONNX Runtime's, not the float32 file's."""
    images = images_for(deit, 3)
    answers = {}
    for backend, precision in (("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "fp32")):
        with open_runner(backend, to_bytes(typed(deit, precision)), threads=1) as runner:
            answers[backend, precision] = runner.run(images)["logits"].astype(np.float64)
    ours, theirs = answers["openvino", "int8"], answers["onnxruntime", "int8"]
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
    assert np.abs(ours - answers["openvino", "fp32"]).max() > 1e-3


def test_pytorch_is_asked_afresh_and_what_departs_is_named(
    deit: Tiny, folder: Path, tmp_path: Path
) -> None:
    onnx, checkpoint = folder / "deit.onnx", folder / "deit.pth"
    result = verify_model(onnx, checkpoint=checkpoint, backend="openvino", bisect=True)
    assert result.passed, result.failures
    assert result.bisection is not None
    assert result.bisection.first is None
    assert result.bisection.compared > 50

    broken = deit.graph.clone()
    weight = broken.graph.initializers["blocks.1.mlp.fc1/constant"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(2), name=weight.name)
    damaged = write(tmp_path, broken, deit.bundle)
    result = verify_model(damaged, checkpoint=checkpoint, backend="openvino", bisect=True)
    assert not result.passed
    assert result.bisection is not None
    assert result.bisection.first is not None
    assert result.bisection.first.node == "blocks.1.mlp.fc1/MatMul"


@pytest.mark.parametrize(
    ("kind", "dtype"), [(FLOAT, np.float32), (HALF, np.float16), (TensorProto.INT64, np.int64)]
)
def test_outputs_have_the_type_that_the_file_gives_them(kind: int, dtype: Any) -> None:
    images = np.array([[1.0, -2.5, 3.2345]], np.float32)
    with open_runner("openvino", cast(FLOAT, kind, "batch", 3)) as runner:
        found = runner.run(images)["y"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, images.astype(dtype))


def test_an_output_in_bf16_comes_in_float32() -> None:
    """The bits of bf16 read as float16 would be other numbers."""
    images = np.array([[1.0, 1.2345, -3e38]], np.float32)
    with open_runner("openvino", cast(FLOAT, TensorProto.BFLOAT16, "batch", 3)) as runner:
        found = runner.run(images)["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, images, rtol=2**-8)
    assert found[0, 1] == 1.234375


def test_images_are_given_in_half_where_the_file_takes_them_so() -> None:
    images = np.array([[1.0, 1.2345]], np.float32)
    with open_runner("openvino", cast(HALF, FLOAT, "batch", 2)) as runner:
        assert runner.run(images)["y"].tolist() == [[1.0, float(np.float16(1.2345))]]
    with pytest.raises(ModelFileError, match=r"images as bf16, .*inputs and outputs in float32$"):
        open_runner("openvino", cast(TensorProto.BFLOAT16, FLOAT, "batch", 2))


# ---------------------------------------------------------------- timing


def test_it_is_timed_beside_onnx_runtime(deit: Tiny, folder: Path) -> None:
    result = bench_model(
        folder / "deit.onnx",
        backends=["openvino", "onnxruntime"],
        threads=1,
        pytorch=False,
        profile=True,
        plan=BRIEFLY,
    )
    labels = [f"{name} {form}" for name in ("openvino", "onnxruntime") for form in FORMS]
    assert [timing.label for timing in result.batches[0].timings] == labels
    assert [gain.runtime for gain in result.batches[0].gains] == ["openvino", "onnxruntime"]
    assert list(result.layers) == labels
    sparse, dense = result.layers["openvino sparse"], result.layers["openvino dense"]
    assert tuple(sparse) == GROUPS
    assert all(sparse[group] > 0 for group in GROUPS)
    assert dense["predictor"] < sparse["predictor"]


def test_layers_are_timed_where_that_was_asked_for(deit: Tiny) -> None:
    with open_runner("openvino", to_bytes(deit.graph), threads=1, profile=True) as runner:
        assert isinstance(runner, LayerRunner)
        for _ in range(3):
            runner.run(images_for(deit, 3))
        times = runner.layers()
    assert {"blocks.0.attn.q/Add", "blocks.0.mlp.fc2/Add", "score_predictor.0/TopK"} <= set(times)
    assert sum(times.values()) > 0
    assert all("/" in name for name in list(times)[:-1])


# ---------------------------------------------------------------- refusals


def test_only_shapes_that_the_file_takes(deit: Tiny) -> None:
    """With its shapes freed OpenVINO would compute any that its nodes happen to take."""
    with open_runner("openvino", to_bytes(take_batches(deit, "2").graph)) as runner:
        assert runner.run(images_for(deit, 2))["logits"].shape == (2, 10)
        words = r"takes images of shape \[2,3,28,28\], and was given \[3, 3, 28, 28\]$"
        with pytest.raises(ModelFileError, match=words):
            runner.run(images_for(deit, 3))
    with (
        open_runner("openvino", cast(FLOAT, HALF, "batch", 3)) as runner,
        pytest.raises(
            ModelFileError, match=r"takes images of shape \[\?,3\], and was given \[1, 4\]"
        ),
    ):
        runner.run(np.zeros((1, 4), np.float32))


def test_a_damaged_file_is_one_sentence(folder: Path, deit: Tiny, tmp_path: Path) -> None:
    whole = (folder / "deit.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: len(whole) // 2])
    for model in (cut, whole[: len(whole) // 2], b"", tmp_path / "none.onnx"):
        with pytest.raises(ModelFileError) as found:
            open_runner("openvino", model)
        words = str(found.value)
        assert words.startswith("OpenVINO cannot load the model: ")
        assert "\n" not in words
        assert ".cpp" not in words


def test_what_it_cannot_load_or_run_is_named() -> None:
    ends = [("images", ("batch", 4), FLOAT)], [("y", None, FLOAT)]
    with pytest.raises(ModelFileError, match=r"cannot load the model: .* operations: NoSuch-20$"):
        open_runner(
            "openvino", model_of([node("NoSuch", "images", "y")], *ends).SerializeToString()
        )
    reshape = model_of([node("Reshape", "images shape", "y")], *ends, shape=np.array([7, 5]))
    with (
        open_runner("openvino", reshape.SerializeToString()) as runner,
        pytest.raises(ModelFileError, match=r"^OpenVINO cannot run the model: [^\n]*hape[^\n]*$"),
    ):
        runner.run(np.zeros((1, 4), np.float32))


def test_without_the_package_the_extra_is_named(
    deit: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = r"^openvino is not installed, .* run  pip install 'openvino>=[\d.]+'$"
    for ask in (
        lambda: require_runtime("openvino"),
        lambda: open_runner("openvino", to_bytes(deit.graph)),
        lambda: bench_model(folder / "deit.onnx", backends=["openvino"]),
        lambda: verify_model(folder / "deit.onnx", backend="openvino"),
    ):
        with pytest.raises(MissingExtraError, match=words):
            ask()


def test_bf16_is_computed_where_the_processor_does(deit: Tiny) -> None:
    """OpenVINO would compute in float32 elsewhere and say nothing."""
    import openvino

    content, images = to_bytes(deit.graph), images_for(deit, 3)
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(DeviceError, match=r"does not compute in bf16.*`backend` openvino$"):
            open_runner("openvino-bf16", content)
        return
    with open_runner("openvino", content) as exact, open_runner("openvino-bf16", content) as runner:
        error = np.abs(runner.run(images)["logits"] - exact.run(images)["logits"]).max()
    assert 1e-4 < error < 0.5


def test_an_unknown_backend_is_told_their_names(folder: Path, deit: Tiny) -> None:
    assert {"openvino", "openvino-bf16"} < set(runtimes())
    words = "unknown backend 'openvin': did you mean 'openvino'.* openvino, openvino-bf16$"
    for ask in (
        lambda: verify_model(folder / "deit.onnx", backend="openvin"),
        lambda: bench_model(folder / "deit.onnx", backends=["openvin"]),
    ):
        with pytest.raises(InputError, match=words):
            ask()
