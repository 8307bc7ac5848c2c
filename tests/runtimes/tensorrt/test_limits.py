"""Limits of runtimes, named before anything is exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynexport.models import find_family
from dynexport.models.convnext import ConvNeXtConfig
from dynexport.runtimes.tensorrt.limits import TENSORRT_TOP_K, top_k_warnings
from dynexport.schedule import Selection

pytestmark = pytest.mark.slow

NESTED, GRID = Selection(nested=True, leading=1), Selection(nested=False)


@pytest.mark.parametrize(
    ("selection", "counts", "tokens", "stages"),
    [
        (NESTED, (137, 96, 67), 196, []),
        (NESTED, (3839, 3838, 1), 4096, []),
        (NESTED, (3840, 3839, 1), 4096, [1]),
        (NESTED, (4000, 3900, 1), 4096, [1, 2]),
        (GRID, (137, 97, 58), 196, []),
        (GRID, (10, 5, 1), 3840, []),
        (GRID, (10, 5, 1), 3841, [1, 2, 3]),
        (NESTED, (), 4096, []),
    ],
)
def test_each_stage_beyond_the_limit_is_named(
    selection: Selection, counts: tuple[int, ...], tokens: int, stages: list[int]
) -> None:
    warnings = top_k_warnings(selection, counts, tokens)
    assert [int(text.split("stage ")[1].split(":")[0]) for text in warnings] == stages
    assert all(str(TENSORRT_TOP_K) in text and "--img-size" in text for text in warnings)


def test_convert_warns_and_goes_on(tmp_path: Path) -> None:
    """A third stage of 64 x 64 positions: beyond TensorRT, no trouble for ONNX Runtime."""
    config = ConvNeXtConfig((4, 4, 4, 4), (1, 1, 2, 1), (1,), 64, 2, patch_size=2, kernel=1)
    model = find_family("convnext").model(config)
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth")
    command = "convert c.pth --ratio 0.5 --batch 1 --prune-at 1 --img-size 512 --json --quiet"
    done = subprocess.run(
        [sys.executable, "-m", "dynexport", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: TensorRT will refuse stage 1: its top-k lists 4096")
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(done.stdout)["warnings"][0] in done.stderr
