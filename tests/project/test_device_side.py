"""The device side, as users install it: the wheel and one runtime in a fresh environment.

The one test that asks the package index, for some 130 MB, so `make dist` runs it with what else is
tried of the archives; it is skipped where there is no network.
It is one function, so that the environment is made once, whichever process the test runs in.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dynexport.conversion import Conversion

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "dynexport", "models", "calibration")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""Nothing of this installation shows in the other one."""

BRIEFLY = ("--rounds", "1", "--round-seconds", "0.05")


LACKS = "error: {} is not installed, and this step needs it: run  "
"""What a command that lacks a package says, before the command that installs it."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Device:
    """A folder with an environment, ``env``, and the files that were carried there."""

    folder: Path

    @property
    def packages(self) -> set[str]:
        (site,) = (self.folder / "env").glob("lib/python*/site-packages")
        return {found.metadata["Name"] for found in importlib.metadata.distributions(path=[site])}

    def run(self, program: str, *arguments: str) -> Ran:
        done = subprocess.run(
            [self.folder / "env" / "bin" / program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**ENVIRONMENT, "XDG_CACHE_HOME": str(self.folder / "cache")},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def dynexport(self, *arguments: str) -> Ran:
        return self.run("dynexport", *arguments)

    def refusal(self, *arguments: str) -> str:
        """The one sentence of a command that cannot do its work."""
        ran = self.dynexport(*arguments)
        assert (ran.code, ran.out) == (2, "")
        *progress, sentence = ran.err.splitlines()
        assert all(line.startswith("... ") for line in progress)
        return sentence

    def pip(self, *arguments: str) -> None:
        """By this installation's pip, copied: making another environment's takes longer."""
        ran = self.run("python", str(self.folder / "tools" / "pip"), *arguments)
        if ran.code and "after connection broken by" in ran.err:
            pytest.skip("the package index cannot be reached")
        assert ran.code == 0, ran.err

    def install(self, *wanted: str) -> set[str]:
        """Install what a user asked pip for; the packages that came with it."""
        before = self.packages
        pins = str(ROOT / "requirements.txt")
        self.pip("install", "--no-compile", "--retries", "2", "--constraint", pins, *wanted)
        return self.packages - before

    def obey(self, package: str, *arguments: str) -> set[str]:
        """Run, to the letter, what a command says that lacks a package; what it installed."""
        refused = self.refusal(*arguments)
        assert refused.startswith(LACKS.format(package))
        program, install, *wanted = shlex.split(refused.removeprefix(LACKS.format(package)))
        assert (program, install) == ("pip", "install")
        return self.install(*wanted)


@pytest.fixture
def device(tiny_conversion: Conversion, tmp_path: Path) -> Device:
    """With nothing but a converted model."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    spec = importlib.util.find_spec("pip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    shutil.copytree(spec.submodule_search_locations[0], tmp_path / "tools" / "pip")
    for file in (tiny_conversion.onnx, tiny_conversion.reference):
        shutil.copy(file, tmp_path)
    return Device(tmp_path)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Of a copy of the tree: the build leaves files beside its sources."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, copy], check=True)
    shutil.rmtree(copy)
    (built,) = tmp_path.glob("dynexport-*.whl")
    return built


@pytest.mark.install
def test_the_core_and_one_runtime_suffice(device: Device, wheel: Path) -> None:
    core = device.install(str(wheel))
    assert "dynexport" in core
    brought = device.obey("onnxruntime", "verify", "tiny.onnx")
    assert "onnxruntime" in brought
    require_onnxruntime_suffices(device)
    device.pip("uninstall", "--yes", *brought)
    assert device.packages == core
    assert "tensorrt_rtx" in device.obey("TensorRT", "build", "tiny.onnx")
    require_tensorrt_rtx_suffices(device)
    assert not {"torch", "onnxscript", "safetensors", "onnxruntime"} & device.packages


def require_onnxruntime_suffices(device: Device) -> None:
    facts = device.dynexport("inspect", "tiny.onnx", "--json").json
    assert facts["dynexport"]["keep_counts"] == [34, 24, 16]

    checked = device.dynexport("check", "tiny.onnx", "--json").json
    assert (checked["passed"], checked["tensorrt"]) == (True, None)
    assert "run  pip install 'tensorrt-rtx>=" in checked["unparsed"]

    diagnosis = device.dynexport("doctor", "--json").json
    assert diagnosis["healthy"]
    assert Path(diagnosis["executable"]).is_relative_to(device.folder)
    ready = {"verify", "check", "optimize", "bench", "visualize", "inspect"}
    assert ready_commands(diagnosis) == ready

    ran = device.dynexport("verify", "tiny.onnx")
    assert ran.code == 0, ran.err
    assert "verified with onnxruntime on 8 images" in ran.out

    ran = device.dynexport("bench", "tiny.onnx", *BRIEFLY)
    assert ran.code == 0, ran.err
    assert re.search(r"onnxruntime sparse .*\nonnxruntime dense .*\n.*speed-up over the", ran.out)
    assert "pytorch" not in ran.out

    assert device.refusal("build", "tiny.onnx").startswith(LACKS.format("TensorRT"))
    assert not (device.folder / "tiny.engine").exists()
    (device.folder / "some.pth").write_bytes(b"weights")
    assert device.refusal("convert", "some.pth").startswith(LACKS.format("torch"))


def require_tensorrt_rtx_suffices(device: Device) -> None:
    diagnosis = device.dynexport("doctor", "--json").json
    (runtime,) = (found for found in diagnosis["runtimes"] if found["name"] == "tensorrt-rtx")
    assert diagnosis["healthy"]
    assert runtime["builds"]
    assert "build" in ready_commands(diagnosis)

    facts = device.dynexport("inspect", "tiny.onnx", "--json").json
    assert facts["dynexport"]["keep_counts"] == [34, 24, 16]

    checked = device.dynexport("check", "tiny.onnx", "--json").json
    assert checked["passed"]
    assert checked["tensorrt"].startswith("tensorrt-rtx ")

    ran = device.dynexport("build", "tiny.onnx")
    assert ran.code == 0, ran.err
    assert "next: dynexport bench --engine tiny.engine" in ran.out
    sidecar = json.loads((device.folder / "tiny.engine.json").read_text())
    assert (sidecar["flavour"], sidecar["onnx"]) == ("tensorrt-rtx", "tiny.onnx")

    assert device.refusal("verify", "tiny.onnx").startswith(LACKS.format("onnxruntime"))
    assert device.refusal("bench", "tiny.onnx").startswith(LACKS.format("onnxruntime"))
    verify, bench = ("verify", "tiny.onnx", "--engine", "tiny.engine"), ("--engine", "tiny.engine")
    if runtime["runs"]:
        assert device.dynexport(*verify).code == 0
        assert "speed-up over the" in device.dynexport("bench", *bench, *BRIEFLY).out
    else:
        why = "error: no " if diagnosis["capability"] is None else "error: tiny.engine runs on"
        assert device.refusal(*verify).startswith(why)
        assert device.refusal("bench", *bench).startswith(why)


def ready_commands(diagnosis: dict[str, Any]) -> set[str]:
    return {command["name"] for command in diagnosis["commands"] if command["ready"]}
