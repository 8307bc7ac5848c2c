"""What doctor says where less is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from made.installations import PROJECT, doctor, fake, hide

pytestmark = pytest.mark.slow


def bringing(*extras: str) -> str:
    """The command for what pyproject.toml lists under these extras."""
    listed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    needs = [need for extra in extras for need in listed[extra]]
    return "pip install " + " ".join(f"'{n}'" for n in needs if not n.startswith("dynexport"))


CONVERT = bringing("convert")


def test_without_the_conversion_side_the_rest_is_healthy(folder: Path) -> None:
    hide(folder, torch="torch", onnxscript="onnxscript", safetensors="safetensors")
    ran = doctor(folder, "--json")
    assert (ran.code, ran.json["healthy"]) == (0, True)
    assert ran.package("torch") == {
        "name": "torch",
        "extra": "convert",
        "version": None,
        "state": "missing",
        "problem": "torch is not installed",
        "install": CONVERT,
    }
    for name in ("convert", "models", "sweep"):
        command = ran.command(name)
        assert not command["ready"]
        assert command["lacks"] == ["torch", "onnxscript", "safetensors"]
        assert command["install"] == CONVERT
    assert ran.command("verify")["ready"]
    out = doctor(folder).out
    assert f"  {'torch':<14} not installed\n" in out
    assert f"  {'convert':<14} lacks torch, onnxscript, safetensors: {CONVERT}\n" in out
    assert f"optional: torch: {CONVERT}" not in out


def test_without_what_pages_and_plots_need_the_rest_is_healthy(folder: Path) -> None:
    hide(folder, jinja2="jinja2", matplotlib="matplotlib")
    ran = doctor(folder)
    assert ran.code == 0
    assert f"  {'report':<14} lacks jinja2: {bringing('report')}\n" in ran.out
    assert f"optional: matplotlib: {bringing('plots')}\n" in ran.out
    for name in ("jinja2", "matplotlib"):
        assert f"  {name:<14} not installed\n" in ran.out
    assert f"  {'sweep':<14} ready with onnxruntime\n" in ran.out


def test_without_any_runtime_it_is_not_healthy(folder: Path) -> None:
    hide(
        folder,
        onnxruntime="onnxruntime",
        openvino="openvino",
        tensorrt="tensorrt",
        tensorrt_rtx="tensorrt-rtx",
        pynvml="nvidia-ml-py",
        cuda="cuda-python",
    )
    ran = doctor(folder, "--json")
    assert ran.code == 1
    assert ran.json["problems"] == [
        f"no runtime works here: run  {bringing('cpu')}  for ONNX Runtime"
    ]
    assert ran.command("verify")["lacks"] == ["onnxruntime"]
    assert ran.command("verify")["install"] == bringing("cpu")
    for name in ("optimize", "visualize", "sweep", "report"):
        assert ran.command(name)["lacks"] == ["onnxruntime"]
    for name in ("check", "inspect"):
        assert ran.command(name)["ready"]
    assert ran.command("build")["lacks"] == ["tensorrt-rtx"]
    assert ran.command("build")["install"] == bringing("rtx", "cuda")
    assert "nvidia-ml-py is not installed" in ran.json["gpu_problem"]
    out = doctor(folder).out
    assert f"optional: cuda-python, nvidia-ml-py: {bringing('cuda')}\n" in out
    assert out.splitlines()[-1].startswith("problem: no runtime works here")


def test_folders_of_the_same_names_are_not_packages(folder: Path) -> None:
    """As type stubs leave one of TensorRT, and a checkout one of PyTorch."""
    hide(folder, torch="torch", onnxruntime="onnxruntime", tensorrt="tensorrt")
    for module in ("torch", "onnxruntime", "tensorrt"):
        (folder / module).mkdir()
    ran = doctor(folder, "--json")
    for module in ("torch", "onnxruntime", "tensorrt"):
        package = ran.package(module)
        assert (package["state"], package["version"]) == ("missing", None)


def test_a_version_that_is_too_old_is_not_ready(folder: Path) -> None:
    fake(folder, "safetensors", "", version="0.3.1")
    ran = doctor(folder, "--json")
    assert (ran.code, ran.json["healthy"]) == (1, False)
    package = ran.package("safetensors")
    assert (package["state"], package["install"]) == ("outdated", CONVERT)
    assert package["problem"] == "safetensors 0.3.1 is too old: 0.4.5 or later is needed"
    assert ran.json["problems"] == [f"{package['problem']}: run  {CONVERT}"]
    assert ran.command("convert")["lacks"] == ["safetensors"]
    assert doctor(folder).out.splitlines()[-1] == f"problem: {ran.json['problems'][0]}"


def test_a_runtime_that_is_too_old_is_not_healthy_beside_one_that_works(folder: Path) -> None:
    fake(folder, "openvino", "", version="2025.0.0")
    ran = doctor(folder, "--json")
    assert (ran.code, ran.json["healthy"]) == (1, False)
    assert ran.package("openvino")["state"] == "outdated"
    (problem,) = ran.json["problems"]
    assert problem.startswith("openvino 2025.0.0 is too old: ")
    assert problem.endswith(f"or later is needed: run  {bringing('openvino')}")
    assert ran.command("verify")["ready"]
