"""The device side, as users install it: the wheel and one runtime in a fresh environment.

It asks the package index, for some 130 MB, so `make dist` runs it with what else is tried of the
archives; it is skipped where there is no network.
It is one function, so that the environment is made once, whichever process the test runs in.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made.environments import BRIEFLY, LACKS, Device


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
