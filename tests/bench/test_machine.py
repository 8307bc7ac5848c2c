"""What a measurement was made on, as Linux tells it of processors that are not at hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

import dynexport
from dynexport.bench.machine import count_cores, read_cpu_flags, read_cpu_name, read_machine

SERVER = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu avx avx2 fma f16c avx512f avx512_bf16 avx512_vnni amx_tile amx_int8 amx_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
JETSON = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimdhp asimddp
CPU part\t: 0xd42

Model\t: NVIDIA Jetson AGX Orin
"""


@pytest.mark.parametrize(
    ("told", "name", "flags"),
    [
        (
            SERVER,
            "Intel(R) Xeon(R) Platinum 8481C",
            "avx avx2 fma f16c avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16",
        ),
        (JETSON, "NVIDIA Jetson AGX Orin", "asimd asimddp asimdhp"),
    ],
)
def test_processors(told: str, name: str, flags: str) -> None:
    assert read_cpu_name(told) == name
    assert read_cpu_flags(told) == tuple(flags.split())


def test_a_system_that_does_not_tell() -> None:
    """As macOS and Windows, which have no such file: nothing is made up."""
    assert read_cpu_flags("") is None
    assert read_cpu_flags("flags : fpu vme") == ()


def test_this_machine_now() -> None:
    host = read_machine()
    assert host.cores == count_cores() >= 1
    assert host.versions["dynexport"] == dynexport.__version__
    assert host.versions["numpy"] == np.__version__
    assert {"onnx", "onnxruntime", "openvino", "torch"} <= set(host.versions)
    told = datetime.fromisoformat(host.date)
    assert told.tzinfo is not None
    assert abs(datetime.now().astimezone() - told) < timedelta(minutes=1)
