"""What the command line says of itself: its name, its version."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
from made.terminals import Ask, run_piped

pytestmark = pytest.mark.slow


def test_the_version_tells_those_of_python_and_the_runtimes(ask: Ask) -> None:
    code, out, err = ask("--version")
    first, python, *packages = out.splitlines()
    assert (code, err) == (0, "")
    assert first == f"dynexport {importlib.metadata.version('dynexport')}"
    assert python.startswith(f"Python {sys.version.split()[0]} on ")
    for name in ("torch", "onnx", "onnxruntime", "openvino", "tensorrt-rtx"):
        assert f"{name} {importlib.metadata.version(name)}" in packages
    assert not any(line.startswith(("tensorrt ", "onnxruntime-gpu ")) for line in packages)


def test_as_a_module_it_goes_by_the_same_name() -> None:
    assert run_piped("--help").stdout.startswith("Usage: dynexport [OPTIONS]")
    assert "Try 'dynexport verify -h'" in run_piped("verify").stderr
