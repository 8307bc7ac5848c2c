"""The trained model in every precision: accuracy on digits never trained on, beside PyTorch's, and
as the record has it that the documentation takes its figures from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynexport.compare.original import Original
from dynexport.conversion import Recipe, convert
from dynexport.formats.reference import ReferenceBundle
from dynexport.precision import Precision, precisions
from dynexport.pytorch import model
from dynexport.verify import Limits, verify_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MNIST = ROOT / "examples" / "mnist"
RECORD = json.loads((MNIST / "figures.json").read_text())

TYPED = [name for name in precisions() if name != "fp32"]

DROPS = {"int8": 0.5, "int8-fp16": 0.5, "int8-dynamic": 0.5}
"""Points of accuracy that a precision may lose; the others 0.1, one digit of the thousand."""


@pytest.fixture(scope="module")
def answers() -> dict[bytes, ReferenceBundle]:
    """PyTorch's, by the images: they are the same whatever the file is held to them in."""
    return {}


@pytest.fixture(autouse=True)
def asked_once(answers: dict[bytes, ReferenceBundle], monkeypatch: pytest.MonkeyPatch) -> None:
    open_original: Callable[..., Original] = model.open_original

    def open_known(*arguments: Any) -> Original:
        original = open_original(*arguments)

        def answer(images: Any) -> ReferenceBundle:
            if images.tobytes() not in answers:
                answers[images.tobytes()] = original.answer(images)
            return answers[images.tobytes()]

        return replace(original, answer=answer)

    monkeypatch.setattr(model, "open_original", open_known)


@pytest.mark.parametrize(
    "name",
    ["fp32", *(pytest.param(name, marks=pytest.mark.thorough) for name in TYPED)],
)
def test_accuracy_is_pytorchs(name: str, tmp_path: Path) -> None:
    """Ranges are taken from training digits alone, and every test digit counts."""
    checkpoint = MNIST / "mnist-deit.pth"
    precision = Precision(name, calibration_data=MNIST / "calibration.npz")
    converted = convert(
        Recipe(checkpoint, ratio=0.7, batch=50, precision=precision, output=tmp_path / "mnist.onnx")
    )
    result = verify_model(
        converted.onnx,
        checkpoint=checkpoint,
        data=MNIST / "test.npz",
        limits=Limits(min_agreement=0.99, max_drop=DROPS.get(name, 0.1)),
    )
    assert result.passed, result.failures
    assert result.accuracy is not None
    assert result.accuracy.images == RECORD["images"] == 1000
    assert result.accuracy.pytorch_top1 == RECORD["pytorch"] == 0.982
    assert RECORD["precisions"][name] == {
        "accuracy": result.accuracy.top1,
        "agreement": result.accuracy.agreement,
        # whether predictors become int8 too is tried out, and processors round otherwise
        "megabytes": pytest.approx(converted.size_bytes / 1e6, rel=0.05),
    }


def test_the_page_on_metadata_shows_this_model(tmp_path: Path) -> None:
    """But for what the batch and this installation decide."""
    page = (ROOT / "docs" / "metadata.md").read_text()
    told = dict(re.findall(r"^\| `(dynexport\.\w+)` \| .* \| `(.+)` \|$", page, re.M))
    made = convert(
        Recipe(MNIST / "mnist-deit.pth", ratio=0.7, batch=50, output=tmp_path / "m.onnx")
    )
    found = made.metadata.to_properties()
    assert set(told) == set(found)
    other = {name for name in told if told[name] != found[name]}
    assert other <= {"dynexport.batch", "dynexport.versions"}


def test_the_record_has_every_precision() -> None:
    assert list(RECORD["precisions"]) == list(precisions())
