"""Environments, and the wheel that is installed into them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made.environments import ROOT, Device

from dynexport.conversion import Conversion

SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "dynexport",
    "models",
    "calibration",
)


@pytest.fixture
def device(tiny_conversion: Conversion, tmp_path: Path) -> Device:
    """With nothing but a converted model."""
    for file in (tiny_conversion.onnx, tiny_conversion.reference):
        shutil.copy(file, tmp_path)
    return Device.make(tmp_path, sys.executable)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a copy of the tree, in which an older build has left a module that is no more."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    left = copy / "build" / "lib" / "dynexport" / "removed.py"
    left.parent.mkdir(parents=True)
    left.write_text("raise ImportError\n")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, copy], check=True)
    shutil.rmtree(copy)
    (built,) = folder.glob("dynexport-*.whl")
    return built
