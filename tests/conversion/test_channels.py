"""Models of one, four and six channels through the whole line, each proved on its training form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made.tiny import build
from PIL import Image

from dynexport.bench import bench_model
from dynexport.bench.timing import Plan
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.engine import build_engine
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import synthetic_images
from dynexport.precision import Precision
from dynexport.pytorch.rewrite import oracle
from dynexport.report import write_report
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule
from dynexport.sweep import Rig, sweep_checkpoint
from dynexport.verify import verify_model
from dynexport.visualize import visualize_images

FAMILY = {1: "deit", 4: "swin", 6: "lvvit"}
"""Channels, and what takes so many here."""

SIZE = {"deit": 28, "swin": 32, "lvvit": 28}

RATIOS = (0.7, 0.5, 0.3)


@pytest.fixture(scope="module", params=sorted(FAMILY))
def channels(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def folder(channels: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of so many channels, and images for it."""
    folder = tmp_path_factory.mktemp(f"{channels} channels")
    family = FAMILY[channels]
    state = build(family, 0, in_chans=channels).state_dict()
    told = {"prune_at": [1, 2, 3], "num_heads": 2, "input_size": SIZE[family]}
    torch.save({"model": state, "args": told}, folder / "c.pth")
    images = synthetic_images(24, SIZE[family], seed=4, channels=channels)
    np.savez(folder / "c.npz", images=images, labels=np.arange(24) % 10)
    return folder


@pytest.fixture(scope="module")
def converted(folder: Path, channels: int) -> Conversion:
    return convert(
        Recipe(
            folder / "c.pth",
            ratios=RATIOS,
            batch="2",
            mean=(0.5,),
            std=tuple(0.2 + 0.05 * n for n in range(channels)),
            images=folder / "c.npz",
            output=folder / "c.onnx",
        )
    )


def test_the_file_answers_as_the_training_form(
    folder: Path, converted: Conversion, channels: int
) -> None:
    steps = converted.metadata.preprocessing
    assert (steps.mean, steps.channels) == ((0.5,) * channels, channels)
    assert "mean" not in [one.parameter for one in converted.assumed]
    with np.load(folder / "c.npz") as told:
        pixels = told["images"][::3]  # those of the bundle
    images = ((pixels / 255.0 - 0.5) / (0.2 + 0.05 * np.arange(channels))).transpose(0, 3, 1, 2)
    images = images.astype(np.float32)
    trained = oracle(build(FAMILY[channels], 0, in_chans=channels), KeepSchedule(RATIOS))
    with torch.inference_mode():
        expected = trained(torch.from_numpy(images)).logits.numpy()
    with open_runner("onnxruntime", converted.onnx) as runner:
        found = np.concatenate([runner.run(images[at : at + 2])["logits"] for at in range(0, 8, 2)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    bundle = ReferenceBundle.load(converted.reference)
    np.testing.assert_allclose(bundle.outputs["logits"], expected, rtol=0, atol=1e-4)


def test_it_is_verified_drawn_and_timed(
    folder: Path, converted: Conversion, channels: int, tmp_path: Path
) -> None:
    found = verify_model(
        converted.onnx, checkpoint=folder / "c.pth", data=folder / "c.npz", data_images=8
    )
    assert found.passed
    assert found.accuracy is not None
    assert found.accuracy.agreement == 1.0
    seen = visualize_images(converted.onnx, folder / "c.npz", tmp_path / "c.png", count=2)
    assert seen.channels == channels
    times = bench_model(converted.onnx, pytorch=False, plan=Plan(rounds=1, round_seconds=0.01))
    assert len(times.batches[0].timings) == 2


def test_without_a_bundle_synthetic_images_are_asked(
    folder: Path, converted: Conversion, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(Path(converted.onnx).read_bytes())
    assert verify_model(alone, checkpoint=folder / "c.pth").passed


@pytest.mark.slow
def test_int8_is_calibrated_on_an_array(folder: Path, channels: int, tmp_path: Path) -> None:
    made = convert(
        Recipe(
            folder / "c.pth",
            ratios=RATIOS,
            batch="2",
            precision=Precision("int8", calibration_data=folder / "c.npz", methods=("mse",)),
            output=tmp_path / "c.onnx",
        )
    )
    assert made.verification.passed
    assert made.metadata.preprocessing.mean == (0.449,) * channels
    assert {"mean", "std"} <= {one.parameter for one in made.assumed}


@pytest.mark.thorough
def test_it_is_swept_and_reported(folder: Path, channels: int, tmp_path: Path) -> None:
    swept = sweep_checkpoint(
        Recipe(folder / "c.pth", images=folder / "c.npz", mean=(0.5,), std=(0.5,)),
        "0.7",
        batches=[2],
        data_images=8,
        rig=Rig(plan=Plan(rounds=1, round_seconds=0.01)),
        output=tmp_path / "swept",
        keep_models=True,
    )
    assert swept.passed
    page = write_report(tmp_path / "swept" / "models", output=tmp_path / "page.html", bench=False)
    assert Path(page.html).read_text().count("<img") > 0


@pytest.mark.thorough
def test_an_engine_takes_as_many(converted: Conversion, channels: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    build_engine(converted.onnx, edition="tensorrt-rtx", output=tmp_path / "c.engine")
    assert f'"input_shape": [{channels}, '.replace(" ", "") in (
        tmp_path / "c.engine.json"
    ).read_text().replace(" ", "").replace("\n", "")


def test_pictures_of_grey_are_taken_and_others_refused(
    folder: Path, converted: Conversion, channels: int, tmp_path: Path
) -> None:
    side = SIZE[FAMILY[channels]]
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "x.png")
    if channels == 1:
        assert visualize_images(converted.onnx, tmp_path / "x.png", tmp_path / "y.png").images
        return
    problem = "give pictures with red" if channels == 4 else "pictures have 1, 3 or 4 channels"
    with pytest.raises(Exception, match=problem):
        visualize_images(converted.onnx, tmp_path / "x.png", tmp_path / "y.png")
