"""What doctor says of packages that are broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    pass
else:
    pass
from made.installations import doctor, fake, hide

pytestmark = pytest.mark.slow

CRASH = """
import os, signal, sys
print("libnvinfer: illegal instruction", file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_tensorrt_that_ends_the_interpreter_is_reported(folder: Path) -> None:
    fake(folder, "tensorrt", CRASH)
    ran = doctor(folder, "--json")
    assert ran.code == 1
    package = ran.package("tensorrt")
    assert (package["state"], package["install"]) == ("broken", None)
    assert package["problem"] == (
        "tensorrt is installed but does not import: it ends Python by SIGSEGV "
        "(libnvinfer: illegal instruction)"
    )
    assert ran.json["problems"] == [package["problem"]]
    assert ran.package("onnxruntime")["state"] == "ready"
    assert ran.command("verify")["ready"]
    assert "tensorrt" not in ran.command("build")["runtimes"]


def test_a_library_that_is_missing_is_named(folder: Path) -> None:
    fake(folder, "onnxruntime", "raise ImportError('libcudart.so.13: cannot open')", "1.30.0")
    fake(folder, "tensorrt", "raise OSError('libnvdla.so: cannot open')")
    ran = doctor(folder)
    assert ran.code == 1
    problem = "onnxruntime is installed but does not import: ImportError: libcudart.so.13: cannot"
    assert f"  {'onnxruntime':<14} {'1.30.0':<14} {problem} open\n" in ran.out
    assert f"problem: {problem} open\n" in ran.out
    assert "tensorrt is installed but does not import: libnvdla.so: cannot open\n" in ran.out
    assert "healthy" not in ran.out


def test_what_everything_needs_is_told_before_all_that_needs_it(folder: Path) -> None:
    fake(folder, "numpy", CRASH, "2.0.0")
    hide(folder, PIL="pillow")
    ran = doctor(folder, "--json")
    assert ran.code == 1
    assert ran.package("numpy")["state"] == "broken"
    assert ran.package("numpy")["version"] == "2.0.0"
    assert ran.package("pillow")["install"] == "pip install 'pillow>=10.3'"
    assert ran.package("rich")["state"] == "ready"
    assert "pillow is not installed: run  pip install 'pillow>=10.3'" in ran.json["problems"]
    assert "numpy is installed but does not import: it ends" in ran.json["problems"][0]
    assert not any(command["ready"] for command in ran.json["commands"])


def test_a_dynexport_that_is_not_installed_is_refused_in_a_sentence(folder: Path) -> None:
    hide(folder, dynexport_of_another_name="dynexport")
    ran = doctor(folder)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: dynexport runs from a folder but is not installed")
