"""Against recorded outputs of the reference implementation, at full size."""

from __future__ import annotations

from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import pytest
import torch

from dynexport.conversion import Conversion, Recipe, convert
from dynexport.images import synthetic_images
from dynexport.models import variant_name
from dynexport.precision import Precision
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify
from dynexport.pytorch.rewrite import prove, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import schedule_from_base

pytestmark = pytest.mark.slow

BATCH = "1:2:4"
"""Of all, so that a model is exported once; a batch of one size is the tiny models' to test."""


@pytest.fixture(scope="module")
def checkpoint(golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / f"{golden.name}.pth"
    torch.save({"model": golden.state}, path)
    return path


def test_pytorch_inference_form_gives_the_recorded_answers(golden: Any, checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    family, config = identify(loaded)
    assert variant_name(family, config) == golden.name.split("_")[0]
    model = build_model(loaded, family, config)
    keep = schedule_from_base(family.schedule, golden.ratio, 3)
    lean = rewrite(model, keep)
    with torch.inference_mode():
        output = lean(golden.images)
    assert (output.logits - golden.logits).abs().max() < 1e-4
    for ours, theirs in zip(output.tokens.kept, golden.kept, strict=True):
        assert torch.equal(ours.sort(dim=1).values, theirs)
    proof = prove(model, lean, keep, golden.images)
    assert proof.max_abs_error < 1e-5 * max(1.0, proof.scale)
    assert proof.selection_gap == (0.0, 0.0, 0.0)


def test_onnx_gives_the_recorded_answers(golden: Any, checkpoint: Path, tmp_path: Path) -> None:
    """And an engine is built of it in the same go."""
    onnx = tmp_path / "golden.onnx"
    result = convert(
        Recipe(
            checkpoint,
            ratio=golden.ratio,
            batch=BATCH,
            emit_kept=True,
            edition="tensorrt-rtx",
            output=onnx,
        )
    )
    with open_runner("onnxruntime", onnx) as runner:
        parts = [runner.run(part.numpy()) for part in golden.images.split(3)]
    answers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert np.abs(answers["logits"] - golden.logits.numpy()).max() < 1e-4
    for stage, theirs in enumerate(golden.kept):
        assert np.array_equal(np.sort(answers[f"kept_{stage}"], axis=1), theirs.numpy())
    judge_engine(result, golden, "fp32")


@pytest.mark.thorough
def test_half_precision_is_verified_and_built(
    golden: Any, checkpoint: Path, tmp_path: Path
) -> None:
    if golden.name.startswith("deit-256"):
        pytest.skip("deit-s stands for its family")
    result = convert(
        Recipe(
            checkpoint,
            ratio=golden.ratio,
            batch=BATCH,
            precision="fp16",
            edition="tensorrt-rtx",
            output=tmp_path / "half.onnx",
        )
    )
    assert result.verification.passed
    assert result.engine is not None
    assert result.engine.facts.fused_attention == {"deit": 12, "lvvit": 16, "swin": 12}.get(
        result.metadata.family, 0
    )
    judge_engine(result, golden, "fp16")


@pytest.mark.thorough
def test_int8_is_verified_built_and_small(golden: Any, checkpoint: Path, tmp_path: Path) -> None:
    if golden.name.startswith("deit-256"):
        pytest.skip("deit-s stands for its family")
    pictures = tmp_path / "pictures.npz"
    np.savez(pictures, images=synthetic_images(16, 224))
    result = convert(
        Recipe(
            checkpoint,
            ratio=golden.ratio,
            batch=BATCH,
            precision=Precision("int8", calibration_data=pictures),
            edition="tensorrt-rtx",
            output=tmp_path / "int8.onnx",
        )
    )
    assert result.verification.passed
    weights = 4 * sum(value.numel() for value in golden.state.values())
    assert result.size_bytes < 0.30 * weights
    judge_engine(result, golden, "int8")


def judge_engine(result: Conversion, golden: Any, precision: str) -> None:
    """Built within 4 GB of memory, and described as what it is."""
    assert result.engine is not None
    facts = result.engine.facts
    assert (facts.precision, facts.batches) == (precision, (BATCH,))
    assert facts.metadata == result.metadata
    assert getrusage(RUSAGE_SELF).ru_maxrss < 4e9 / 1024
    weights = sum(value.numel() for value in golden.state.values())
    assert result.engine.size_bytes < 1.5 * weights * {"fp32": 4, "fp16": 2, "int8": 1.3}[precision]
