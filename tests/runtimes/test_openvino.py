"""OpenVINO's answers: those of ONNX Runtime and of PyTorch, at every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
import pytest
from made.in_openvino import cast, images_for
from made.onnx_models import FLOAT, HALF
from made.tiny import Tiny, typed, write
from onnx import TensorProto

from dynexport.errors import ModelFileError
from dynexport.formats.metadata import Batch
from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.batch import change_batch
from dynexport.graph.replay import replay_selection, rows_of
from dynexport.runtimes import open_runner
from dynexport.verify import verify_model

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("batch", ["open", "fixed"])
def test_its_converter_takes_the_file_too(tiny: Tiny, batch: str, tmp_path: Path) -> None:
    """``ovc`` joins more operators than reading a file does."""
    graph = tiny.graph.clone()
    if batch == "fixed":
        change_batch(graph, tiny.metadata, Batch(3, 3, 3))
    images, path = images_for(tiny, 3), write(tmp_path, graph, tiny.bundle)
    compiled = openvino.compile_model(
        openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with open_runner("onnxruntime", path, threads=1) as theirs:
        expected = theirs.run(images)["logits"]
    np.testing.assert_allclose(compiled(images)["logits"], expected, rtol=0, atol=1e-5)


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
