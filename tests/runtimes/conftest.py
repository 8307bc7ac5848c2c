"""A tiny DeiT, converted, for runtimes to open."""

from __future__ import annotations

from pathlib import Path

import pytest
from made.in_openvino import RATIOS
from made.tiny import Tiny, convert_tiny


@pytest.fixture(scope="package", params=["deit", "lvvit", "swin", "convnext"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("tiny"), request.param, RATIOS, batch="1:3:5")


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a DeiT was converted: deit.pth, deit.onnx and its bundle."""
    return tmp_path_factory.mktemp("deit")


@pytest.fixture(scope="package")
def deit(folder: Path) -> Tiny:
    return convert_tiny(folder, "deit", RATIOS, batch="1:3:5")
