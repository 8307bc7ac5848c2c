"""What doctor says of this installation."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from dynexport import cli
from dynexport.runtimes.tensorrt import EDITIONS

if sys.version_info >= (3, 11):
    pass
else:
    pass
from made.installations import doctor

pytestmark = pytest.mark.slow


def test_it_tells_what_is_installed(folder: Path) -> None:
    ran = doctor(folder, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = ran.json
    assert found["executable"] == sys.executable
    assert found["dynexport"] == importlib.metadata.version("dynexport")
    assert (found["healthy"], found["problems"]) == (True, [])
    for name in ("numpy", "pillow", "torch", "onnxscript", "safetensors", "onnxruntime"):
        package = ran.package(name)
        assert package["version"] == importlib.metadata.version(name)
        assert (package["state"], package["problem"], package["install"]) == ("ready", None, None)
    assert "CPUExecutionProvider" in ran.package("onnxruntime")["providers"]
    assert [runtime["name"] for runtime in found["runtimes"]] == [
        *("onnxruntime", "openvino"),
        *EDITIONS,
    ]
    assert ran.command("convert")["ready"]
    assert ran.command("verify")["runtimes"][0] == "onnxruntime"
    known = {each.callback.__name__ for each in cli.app.registered_commands if each.callback}
    assert {command["name"] for command in found["commands"]} == known - {"doctor"}


def test_it_prints_the_same_in_words(folder: Path) -> None:
    ran = doctor(folder)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert sys.executable in lines[0]
    assert f"  {'torch':<14} {importlib.metadata.version('torch')}" in lines
    assert any(line.startswith("  onnxruntime") and "runs models on" in line for line in lines)
    assert f"  {'convert':<14} ready with onnxruntime" in lines
    assert lines[-1] == "healthy"


def test_it_imports_no_pytorch_and_no_runtime_itself(folder: Path) -> None:
    code = (
        "import sys; from dynexport.doctor import examine; examine(); "
        "print({'torch', 'onnxscript', 'onnxruntime', 'tensorrt_rtx', 'pynvml'} & set(sys.modules))"
    )
    assert doctor(folder, script=("-c", code)).out == "set()\n"
