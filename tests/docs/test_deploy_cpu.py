"""The program of the page on CPUs answers as we do, with NumPy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from made.programs import FORMS, answer, write_form, write_pictures

from dynexport.conversion import Conversion

PAGE = (Path(__file__).parents[2] / "docs" / "deploy-cpu.md").read_text()
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)

ALONE = """
import sys
for name in ("dynexport", "onnx", "onnx_ir", "torch"):
    sys.modules[name] = None
"""
"""Imports of them fail."""


@pytest.mark.parametrize("name", FORMS)
def test_it_answers_as_dynexport_does(
    name: str, tiny_conversion: Conversion, tmp_path: Path
) -> None:
    path = tmp_path / "ckpt-0.7.onnx"
    write_form(name, tiny_conversion.onnx, path)
    pictures = write_pictures(name, tmp_path / "val", "png")
    done = subprocess.run(
        [sys.executable, "-c", ALONE + PROGRAM], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    classes = answer(path, tmp_path / "val").argmax(axis=1)
    assert len(set(classes)) > 1
    expected = [f"val/{file.name} {kind}" for file, kind in zip(pictures, classes, strict=True)]
    assert done.stdout.splitlines() == expected
