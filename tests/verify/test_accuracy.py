"""Accuracy and agreement on images of the user's, and the limits set to them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_model, save_checkpoint
from PIL import Image

from dynexport.artifact import find_artifact
from dynexport.cli import main
from dynexport.compare.numbers import Agreement
from dynexport.compare.tolerances import Limits
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.errors import ImageError, InputError
from dynexport.formats.onnx_file import read_metadata
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import fill_batch, synthetic_images
from dynexport.precision import choose_tolerances
from dynexport.pytorch.model import open_original
from dynexport.runtimes import open_runner
from dynexport.verify import Verification, open_data, verify_artifact, verify_model
from dynexport.verify.accuracy import Accuracy, share_failures

COUNT = 7
"""No multiple of the batch, which is 3."""


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return synthetic_images(COUNT, 28, seed=5)


@pytest.fixture(scope="module")
def classes(tiny_conversion: Conversion, pictures: np.ndarray) -> np.ndarray:
    """What the model gives them."""
    with open_runner("onnxruntime", tiny_conversion.onnx) as runner:
        ready = tiny_conversion.metadata.preprocessing.normalise(pictures)
        logits = np.concatenate([runner.run(one[None])["logits"] for one in ready])
    return logits.argmax(axis=1)


def save(path: Path, pictures: np.ndarray, labels: Any = None) -> Path:
    told = {} if labels is None else {"labels": np.asarray(labels)}
    np.savez(path, images=pictures, **told)
    return path


def test_accuracy_counts_each_image_once(
    tiny_conversion: Conversion, pictures: np.ndarray, classes: np.ndarray, tmp_path: Path
) -> None:
    labels = classes.copy()
    labels[-1] = (labels[-1] + 1) % 10
    found = verify_model(
        tiny_conversion.onnx, data=save(tmp_path / "d.npz", pictures, labels)
    ).accuracy
    assert found is not None
    assert (found.images, found.top1) == (COUNT, pytest.approx((COUNT - 1) / COUNT))
    assert found.top5 is not None
    assert found.top5 >= found.top1
    assert (found.pytorch_top1, found.agreement, found.drop) == (None, None, None)


def test_beside_pytorch(
    tiny_conversion: Conversion,
    tiny_checkpoint: Path,
    pictures: np.ndarray,
    classes: np.ndarray,
    tmp_path: Path,
) -> None:
    result = verify_model(
        tiny_conversion.onnx,
        checkpoint=tiny_checkpoint,
        data=save(tmp_path / "d.npz", pictures, classes),
        limits=Limits(max_drop=0.0, min_agreement=1.0),
    )
    assert result.passed
    assert result.accuracy is not None
    assert result.accuracy.top1 == result.accuracy.pytorch_top1 == result.accuracy.agreement == 1.0
    assert result.accuracy.drop == 0.0


def test_agreement_needs_no_labels_but_pytorch(
    tiny_conversion: Conversion, tiny_checkpoint: Path, pictures: np.ndarray, tmp_path: Path
) -> None:
    data = save(tmp_path / "d.npz", pictures)
    with pytest.raises(ImageError, match="holds no labels, and PyTorch is not at hand"):
        verify_model(tiny_conversion.onnx, data=data)
    found = verify_model(tiny_conversion.onnx, checkpoint=tiny_checkpoint, data=data).accuracy
    assert found is not None
    assert (found.top1, found.agreement) == (None, 1.0)


@pytest.mark.parametrize("batch", ["3", "1"])
def test_a_fixed_batch_and_a_folder_of_classes(
    batch: str, pictures: np.ndarray, tmp_path: Path
) -> None:
    """The last batch is filled up; two folders of ten classes are those that they are named by."""
    checkpoint = save_checkpoint(tmp_path / "tiny.pth", random_model())
    onnx = convert(Recipe(checkpoint, ratio=0.7, batch=batch, output=tmp_path / "t.onnx")).onnx
    for number, picture in enumerate(pictures):
        folder = tmp_path / "my data" / str(7 + number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    found = verify_model(onnx, data=tmp_path / "my data").accuracy
    few = verify_model(onnx, data=tmp_path / "my data", data_images=4).accuracy
    with open_runner("onnxruntime", onnx) as runner:
        ready = read_metadata(onnx).preprocessing.normalise(pictures)
        batches = [
            fill_batch(ready[at : at + int(batch)], int(batch))
            for at in range(0, COUNT, int(batch))
        ]
        best = np.concatenate([runner.run(one)["logits"].argmax(1) for one in batches])[:COUNT]
    assert found is not None
    assert found.images == COUNT
    assert found.top1 == pytest.approx((best == 7 + np.arange(COUNT) % 2).mean())
    assert found.told_by == "folders are class numbers"
    assert few is not None
    assert few.images == 4


@pytest.mark.parametrize("wrong", [-1, 10])
def test_labels_the_model_does_not_know_are_refused(
    tiny_conversion: Conversion, pictures: np.ndarray, tmp_path: Path, wrong: int
) -> None:
    data = save(tmp_path / "d.npz", pictures, [0] * (COUNT - 1) + [wrong])
    with pytest.raises(ImageError, match="label"):
        verify_model(tiny_conversion.onnx, data=data)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (
            {"limits": Limits(max_drop=0.5)},
            "`max_drop` compares with PyTorch: give `checkpoint` as well",
        ),
        ({"bisect": True}, "`bisect` compares with PyTorch: give `checkpoint` as well"),
        ({"data_images": 5}, "`data_images` limits the images of `data`: give both"),
        (
            {"limits": Limits(max_drop=0.5), "checkpoint": "c.pth"},
            "`max_drop` is of accuracy: give labelled",
        ),
    ],
)
def test_options_that_need_others(
    tiny_conversion: Conversion, asked: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        verify_model(tiny_conversion.onnx, **asked)


def agreement(top1: float | None) -> Agreement:
    return Agreement(1.0, 1.0, top1, None, None, None)


def test_shares_that_fall_short() -> None:
    shares = choose_tolerances("fp32", Limits(min_agreement=0.9))
    assert share_failures({"logits": agreement(0.9)}, None, shares) == ()
    assert share_failures({"logits": agreement(0.875)}, None, shares) == (
        "logits give PyTorch's class for 87.5% of the images, less than 90.0%",
    )
    limits = dataclasses.replace(shares, max_drop=0.5)
    many = Accuracy("d.npz", 1000, 0.975, 1.0, 0.982, 1.0, 0.95)
    assert share_failures({"logits": agreement(0.5)}, many, limits) == (
        "accuracy is 0.70 points below PyTorch's, more than 0.5 allows",
    )
    better = Accuracy("d.npz", 1000, 0.99, 1.0, 0.98, 1.0, 0.95)
    assert share_failures({}, better, choose_tolerances("fp32", Limits(max_drop=0.0))) == ()


def test_what_was_asked_for_and_cannot_be_told_falls_short() -> None:
    asked = choose_tolerances("fp32", Limits(min_agreement=0.9, max_drop=0.5))
    untold = (
        "nothing tells whether classes agree: no output has any",
        "nothing tells how much accuracy is lost: there are no labels",
    )
    assert share_failures({"feat_0": agreement(None)}, None, asked) == untold
    silent = Accuracy("d.npz", 1000, None, None, None, None, None)
    assert share_failures({"logits": agreement(1.0)}, silent, asked) == untold
    broken = dataclasses.replace(silent, unsound=("logits on d.npz: 1 of 2 values",))
    assert share_failures({}, broken, choose_tolerances("fp32")) == broken.unsound


@pytest.mark.parametrize(
    ("limits", "error", "problem"),
    [
        (Limits(min_agreement=0.9), InputError, "`min_agreement` on the images of `data` compares"),
        (Limits(max_drop=0.5), ImageError, "`max_drop` is of accuracy, and .* holds no labels"),
    ],
)
def test_a_limit_on_images_that_cannot_tell_is_refused(
    tiny_conversion: Conversion,
    tiny_checkpoint: Path,
    pictures: np.ndarray,
    classes: np.ndarray,
    tmp_path: Path,
    limits: Limits,
    error: type[Exception],
    problem: str,
) -> None:
    """Agreement of a thousand images is not that of the bundle's eight."""
    drops = limits.max_drop is not None
    data = save(tmp_path / "d.npz", pictures, None if drops else classes)
    checkpoint = tiny_checkpoint if drops else None
    with pytest.raises(error, match=problem):
        verify_model(tiny_conversion.onnx, checkpoint=checkpoint, data=data, limits=limits)


def test_agreement_is_judged_on_the_images_given(
    tiny_conversion: Conversion, tiny_checkpoint: Path, pictures: np.ndarray, tmp_path: Path
) -> None:
    """PyTorch gives another class to one image of seven; of the bundle's none is like it."""
    artifact = find_artifact(Path(tiny_conversion.onnx), None)
    path, facts = Path(tiny_conversion.onnx), tiny_conversion.metadata
    original = open_original(tiny_checkpoint, facts, path)
    odd = facts.preprocessing.normalise(pictures)[3]

    def answer(images: np.ndarray) -> ReferenceBundle:
        told = original.answer(images)
        turned = (images == odd).all(axis=(1, 2, 3))
        logits = np.where(turned[:, None], -told.outputs["logits"], told.outputs["logits"])
        return dataclasses.replace(told, outputs={"logits": logits})

    def judge(least: float) -> Verification:
        return verify_artifact(
            artifact,
            ReferenceBundle.load(tiny_conversion.reference),
            "the bundle",
            choose_tolerances("fp32", Limits(min_agreement=least)),
            original=dataclasses.replace(original, answer=answer),
            data=open_data(save(tmp_path / "d.npz", pictures), None, artifact),
        )

    assert judge(0.8).passed
    assert judge(0.9).failures == (
        "logits give PyTorch's class for 85.7% of the images, less than 90.0%",
    )


def test_the_command_line_tells_all_of_it(
    tiny_conversion: Conversion,
    tiny_checkpoint: Path,
    pictures: np.ndarray,
    classes: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = save(tmp_path / "d.npz", pictures, classes)
    asked = ["verify", tiny_conversion.onnx, "--checkpoint", str(tiny_checkpoint)]
    asked += ["--data", str(data), "--bisect", "--tie-margin", "1e-3", "--min-agreement", "0.9"]
    asked += ["--max-drop", "0.5", "-q"]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"{COUNT} images of {data}: accuracy top-1 100.00%" in out
    assert "PyTorch's top-1 100.00%" in out
    assert "the same class as PyTorch 100.00%" in out
    assert "nothing departs: " in out
    with pytest.raises(SystemExit):
        main([*asked, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["accuracy"]["agreement"] == 1.0
    assert told["bisection"]["first"] is None
    assert told["tolerances"]["tie_margin"] == told["tolerances"]["ranking"] == 1e-3
    assert told["tolerances"]["min_agreement"] == 0.9
