"""What OpenVINO cannot do is said in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from made.in_openvino import cast, images_for
from made.onnx_models import FLOAT, HALF, model_of, node
from made.tiny import Tiny, take_batches

from dynexport.bench import bench_model
from dynexport.errors import DeviceError, InputError, MissingExtraError, ModelFileError
from dynexport.formats.onnx_file import to_bytes
from dynexport.runtimes import open_runner, require_runtime, runtimes
from dynexport.verify import verify_model


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
