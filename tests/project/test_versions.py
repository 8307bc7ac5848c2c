"""The versions that pyproject.toml allows: the oldest of each package, and other Pythons.

Each is an environment of its own, for which the package index is asked, so `make dist` runs these,
and `make pythons` conversions in other Pythons.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made import tiny
from made.environments import BRIEFLY, ROOT, Device
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dynexport.conversion import Conversion

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

TRIED = ("convert", "cpu", "openvino", "rtx", "cuda", "report", "plots")
"""Extras whose packages a machine without a GPU can use."""

pytestmark = pytest.mark.install


def find_python(version: str) -> str:
    """An interpreter of this version: on the path, or one of pyenv's; skips where there is none."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = str(of_pyenv[-1]) if of_pyenv else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"there is no Python {version} here")
    return found


def oldest() -> dict[str, str]:
    """The oldest version allowed of every package that is tried, by its name."""
    extras = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(need for extra in TRIED for need in extras[extra])]
    needs = [Requirement(line) for line in listed if not line.startswith("dynexport")]
    return {need.name: next(iter(need.specifier)).version for need in needs}


@pytest.fixture
def folder(tmp_path: Path, tiny_conversion: Conversion, tiny_checkpoint: Path) -> Iterator[Path]:
    """Checkpoints of all families, a converted model, and pictures of digits; an environment made
    there is removed, since PyTorch with CUDA takes gigabytes."""
    for file in (tiny_conversion.onnx, tiny_conversion.reference, tiny_checkpoint):
        shutil.copy(file, tmp_path)
    shutil.copy(ROOT / "examples" / "mnist" / "test.npz", tmp_path / "digits.npz")
    for family in ("deit", "lvvit", "swin", "convnext"):
        model = tiny.build(family, 0)
        facts = dataclasses.asdict(model.config)
        args = {"pruning_loc": list(facts["prune_at"]), "input_size": list(facts["img_size"])}
        content = {"model": model.state_dict(), "args": {**args, "base_rate": 0.7}}
        if family in ("deit", "lvvit"):
            content["args"]["num_heads"] = facts["num_heads"]
        torch.save(content, tmp_path / f"{family}.pth")
    yield tmp_path
    shutil.rmtree(tmp_path / "env", ignore_errors=True)


def require_done(device: Device, *arguments: str) -> str:
    ran = device.dynexport(*arguments, "-q")
    assert ran.code == 0, (arguments, ran.out, ran.err)
    return ran.out


def test_the_oldest_version_of_each_package_does_its_work(folder: Path, wheel: Path) -> None:
    if sys.version_info >= (3, 13):
        pytest.skip("they have no wheels for this Python")
    device = Device.make(folder, sys.executable)
    pins = folder / "oldest.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in oldest().items()))
    device.install(f"{wheel}[{','.join(TRIED)}]", pins=pins)
    found = {canonicalize_name(name): version for name, version in device.versions.items()}
    for name, version in oldest().items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*(\+cpu)?", found[name]), name

    diagnosis = device.dynexport("doctor", "--json").json
    assert diagnosis["healthy"], diagnosis["problems"]
    require_conversion(device)
    require_device_side(device)


def require_conversion(device: Device) -> None:
    for family in ("deit", "lvvit", "swin", "convnext"):
        require_done(device, "convert", f"{family}.pth", "-o", f"{family}.onnx")
    require_done(device, "convert", "swin.pth", "--batch", "1:2:4", "--target", "tensorrt")
    for precision in ("fp16", "int8-dynamic"):
        arguments = ("--precision", precision, "-o", f"{precision}.onnx")
        require_done(device, "convert", "deit.pth", *arguments)
    calibrated = ("--calibration-data", "digits.npz", "--calibration-images", "32")
    for precision in ("int8", "int8-fp16"):
        arguments = ("--precision", precision, *calibrated, "-o", f"{precision}.onnx")
        require_done(device, "convert", "tiny.pth", *arguments)
    require_done(device, "sweep", "tiny.pth", "--ratios", "0.7,0.5", "-o", "swept", *BRIEFLY)
    assert list((device.folder / "swept").glob("*.png"))
    require_done(device, "convert", "tiny.pth", "-o", "page/tiny.onnx")
    require_done(device, "report", "page", *BRIEFLY)


def require_device_side(device: Device) -> None:
    for model in ("tiny.onnx", "swin.onnx", "int8.onnx"):
        for backend in ("onnxruntime", "openvino"):
            require_done(device, "verify", model, "--backend", backend)
    timed = ("--backend", "onnxruntime,openvino", "--no-pytorch", *BRIEFLY)
    assert "openvino sparse" in require_done(device, "bench", "tiny.onnx", *timed)
    require_done(device, "verify", "tiny.onnx", "--data", "digits.npz", "--data-images", "64")
    require_done(device, "visualize", "tiny.onnx", "digits.npz", "-o", "kept.png")
    require_done(device, "optimize", "tiny.onnx", "-o", "lean.onnx")
    for model in ("tiny.onnx", "fp16.onnx"):  # int8 its oldest release builds on a GPU alone
        require_done(device, "check", model)
        require_done(device, "build", model, "--edition", "tensorrt-rtx", "-o", "built.engine")
    assert "layers" in require_done(device, "inspect", "built.engine")


def test_what_an_older_build_left_is_not_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "dynexport/py.typed" in names
    assert "dynexport/removed.py" not in names


PYTHONS = ("3.10", "3.12", "3.13")
"""Beside the one that tests run in, which is tried all the time."""


@pytest.mark.parametrize("version", PYTHONS)
def test_other_pythons_install_and_verify(folder: Path, wheel: Path, version: str) -> None:
    """As a device has them, without PyTorch."""
    device = Device.make(folder, find_python(version))
    device.install(f"{wheel}[cpu]")
    assert f"Python {version}." in device.dynexport("--version").out
    require_done(device, "verify", "tiny.onnx")
    require_done(device, "bench", "tiny.onnx", "--no-pytorch", *BRIEFLY)
    require_done(device, "visualize", "tiny.onnx", "digits.npz", "-o", "kept.png")


@pytest.mark.pythons
@pytest.mark.parametrize("version", PYTHONS)
def test_other_pythons_install_and_convert(folder: Path, wheel: Path, version: str) -> None:
    """Where pip finds no CPU build of PyTorch, it takes gigabytes: run by `make pythons` alone."""
    device = Device.make(folder, find_python(version))
    device.install(f"{wheel}[convert,cpu]")
    assert f"Python {version}." in device.dynexport("--version").out
    assert device.dynexport("doctor", "--json").json["healthy"]
    require_done(device, "convert", "tiny.pth", "-o", "converted.onnx")
    require_done(device, "convert", "deit.pth", "--precision", "fp16", "-o", "half.onnx")
    require_done(device, "verify", "converted.onnx")
