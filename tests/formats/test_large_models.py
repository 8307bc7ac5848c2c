"""Models larger than one ONNX file holds: their weights stand in another file beside it.

Here a file holds 100 kB, and the tiny model is large.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from made.command_line import ODD
from made.onnx_models import needs_rtx

from dynexport.bench import Plan, bench_model
from dynexport.check import check_model
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.engine import build_engine
from dynexport.errors import InputError, ModelFileError
from dynexport.formats import onnx_file
from dynexport.formats.onnx_file import DATA_SHA256, data_beside, read_model, to_bytes, write_model
from dynexport.inspection import inspect_file
from dynexport.optimize import optimize_model
from dynexport.verify import verify_model
from dynexport.visualize import visualize_images

SHORT = Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0)


@pytest.fixture(autouse=True)
def small_files(tiny_conversion: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 100_000)


@pytest.fixture
def large(tiny_checkpoint: Path, tmp_path: Path) -> Conversion:
    return convert(
        Recipe(tiny_checkpoint, 0.7, output=tmp_path / ODD / "large.onnx", batch="1:2:4")
    )


def test_it_is_written_in_two_files_and_read_again(
    large: Conversion, tiny_conversion: Conversion
) -> None:
    path = Path(large.onnx)
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["large.onnx", "large.onnx.data", "large.reference.npz"]
    sizes = path.stat().st_size, data_beside(path).stat().st_size
    assert large.size_bytes == sum(sizes)
    assert sizes[0] < 100_000 < sizes[1]
    whole, parts = read_model(tiny_conversion.onnx), read_model(path)
    for name, value in whole.graph.initializers.items():
        found = parts.graph.initializers[name].const_value
        assert value.const_value is not None
        assert found is not None
        np.testing.assert_array_equal(found.numpy(), value.const_value.numpy())
    data = hashlib.sha256(data_beside(path).read_bytes()).hexdigest()
    assert parts.metadata_props[DATA_SHA256] == data


def test_others_read_it(large: Conversion, tiny_conversion: Conversion) -> None:
    onnx.checker.check_model(large.onnx, full_check=True)
    images = np.random.default_rng(0).normal(size=(2, 3, 28, 28)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(path).run(["logits"], {"images": images})[0]
        for path in (large.onnx, tiny_conversion.onnx)
    ]
    np.testing.assert_array_equal(*answers)


def test_the_same_model_gives_the_same_files(large: Conversion, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "large.onnx"
    write_model(read_model(large.onnx), again)
    first = Path(large.onnx)
    assert again.read_bytes() == first.read_bytes()
    assert data_beside(again).read_bytes() == data_beside(first).read_bytes()


def test_every_command_takes_it(large: Conversion, tmp_path: Path) -> None:
    assert verify_model(large.onnx).passed
    assert verify_model(large.onnx, backend="openvino").passed
    assert check_model(large.onnx).passed
    assert inspect_file(large.onnx)["dynexport"]["family"] == "deit"
    drawn = visualize_images(large.onnx, [large.reference], output=tmp_path / "drawn.png")
    assert Path(drawn.output).is_file()
    timed = bench_model(large.onnx, pytorch=False, plan=SHORT, batches=[2])
    assert [row.batch for row in timed.batches] == [2]
    with pytest.raises(ModelFileError, match="GiB of weights: files up to 2 GiB are optimized"):
        optimize_model(large.onnx, output=tmp_path / "lean.onnx")


@needs_rtx
def test_an_engine_is_built_of_it(large: Conversion, tmp_path: Path) -> None:
    build = build_engine(large.onnx, edition="tensorrt-rtx", output=tmp_path / "large.engine")
    assert build.facts.onnx_sha256 == hashlib.sha256(Path(large.onnx).read_bytes()).hexdigest()


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
def test_other_precisions(tiny_checkpoint: Path, tmp_path: Path, precision: str) -> None:
    made = convert(
        Recipe(tiny_checkpoint, 0.7, precision=precision, output=tmp_path / "typed.onnx")
    )
    assert made.verification.passed


def test_what_fits_into_one_file_when_typed_is_one(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 600_000)
    single = convert(Recipe(tiny_checkpoint, 0.7, output=tmp_path / "single.onnx"))
    half = convert(Recipe(tiny_checkpoint, 0.7, precision="fp16", output=tmp_path / "half.onnx"))
    assert single.size_bytes > 600_000 > half.size_bytes
    assert data_beside(Path(single.onnx)).exists()
    assert not data_beside(Path(half.onnx)).exists()
    assert DATA_SHA256 not in read_model(half.onnx).metadata_props


def test_without_its_data_it_says_what_lacks(large: Conversion, tmp_path: Path) -> None:
    alone = Path(shutil.copy(large.onnx, tmp_path))
    with pytest.raises(ModelFileError, match=r"large\.onnx\.data, which is not there: copy"):
        verify_model(alone, reference=large.reference)
    data_beside(alone).write_bytes(data_beside(Path(large.onnx)).read_bytes()[:-9000])
    with pytest.raises(ModelFileError, match=r"lies in large\.onnx\.data, which does not hold it"):
        verify_model(alone, reference=large.reference)


def test_nothing_is_written_where_the_data_cannot_be(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx.data").mkdir()
    with pytest.raises(InputError, match=r"x\.onnx\.data is a folder: name a file to write"):
        convert(Recipe(tiny_checkpoint, 0.7, output=tmp_path / "x.onnx"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".pth"] == ["x.onnx.data"]


def test_data_beside_a_small_model_are_taken_into_memory(
    large: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 2**30)
    model = read_model(large.onnx)
    data_beside(Path(large.onnx)).unlink()
    again = onnx.load_model_from_string(to_bytes(model))
    assert not any(tensor.external_data for tensor in again.graph.initializer)
    assert json.loads(model.metadata_props["dynexport.family"]) == "deit"
