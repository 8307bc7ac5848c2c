"""The trained model in every precision: accuracy on digits never trained on, beside PyTorch's, and
as the page on precision has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynexport.conversion import Recipe, convert
from dynexport.precision import Precision, precisions
from dynexport.verify import Limits, verify_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MNIST = ROOT / "examples" / "mnist"
PAGE = (ROOT / "docs" / "precision.md").read_text().partition("## Figures")[2]

DROPS = {"int8": 0.5, "int8-fp16": 0.5, "int8-dynamic": 0.5}
"""Points of accuracy that a precision may lose; the others 0.1, one digit of the thousand."""


@pytest.mark.parametrize("name", precisions())
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
    assert result.accuracy.images == 1000
    assert result.accuracy.pytorch_top1 == 0.982
    found = (result.accuracy.top1, result.accuracy.agreement)
    shares = " | ".join(f"{share:.1%}".replace("%", " %") for share in found)
    megabytes = f"{converted.size_bytes / 1e6:.2f}"
    assert re.findall(rf"^\| {name} \| (.*) \|$", PAGE, re.M) == [f"{shares} | {megabytes}"]
