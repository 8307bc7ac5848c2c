"""Tiny models of all families, converted once, that are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from made.looking import FAMILIES, RATIOS
from made.tiny import Tiny, convert_tiny, write
from PIL import Image

from dynexport.images import synthetic_images


@pytest.fixture(scope="package", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("tiny"), request.param, RATIOS, batch="1:3:5")


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a DeiT was converted: deit.pth, deit.onnx; and three pictures of digits' size."""
    folder = tmp_path_factory.mktemp("deit")
    (folder / "pictures").mkdir()
    for number, picture in enumerate(synthetic_images(5, 28, seed=3)):
        Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.fixture(scope="package")
def deit(folder: Path) -> Tiny:
    return convert_tiny(folder, "deit", RATIOS, batch="1:3:5")


@pytest.fixture
def model(deit: Tiny, tmp_path: Path) -> Path:
    return write(tmp_path, deit.graph, deit.bundle)
