"""Doctor's parts: what it knows of packages, machines and commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynexport.cli.doctor import show_diagnosis
from dynexport.doctor import Diagnosis, Package, probes
from dynexport.doctor.machine import judge_gpus, judge_library
from dynexport.doctor.packages import is_older, read_all_needs
from dynexport.doctor.probes import ProbeError
from dynexport.errors import DynexportError
from dynexport.runtimes import Machine
from dynexport.runtimes.library import import_package
from dynexport.runtimes.nvml import GpuFacts
from dynexport.runtimes.tensorrt import EDITIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from made.installations import PROJECT, fake

pytestmark = pytest.mark.slow


def test_every_requirement_is_understood() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    listed = {None: project["dependencies"], **project["optional-dependencies"]}
    needs = read_all_needs()
    for extra, requirements in listed.items():
        for requirement in requirements:
            if not requirement.startswith("dynexport["):
                name, floor = requirement.split(">=")
                assert (needs[name].floor, needs[name].extra) == (floor, extra)


@pytest.mark.parametrize(
    ("version", "floor", "older"),
    [
        ("2.9", "2.9", False),
        ("2.9.0", "2.9", False),
        ("2.13.0+cpu", "2.9", False),
        ("2.8.1", "2.9", True),
        ("1.9", "1.20", True),
        ("2.9rc1", "2.9", False),
        ("10.3.0.30-1", "10.3", False),
        ("8.6.2.3", "10.3", True),
        ("of unknown version", "1.0", False),
    ],
)
def test_versions_are_compared_by_number(version: str, floor: str, older: bool) -> None:
    assert is_older(version, floor) is older


READY = Package("package", "extra", "1.0", "ready", None, None)


@pytest.mark.parametrize(
    ("name", "capability", "runs", "builds", "note"),
    [
        ("tensorrt", "8.7", True, True, "builds and runs engines"),
        ("tensorrt", "9.0", True, True, "builds and runs engines"),
        ("tensorrt", "5.3", False, False, "of no use here: it runs on compute capability 7.5"),
        ("tensorrt", None, False, False, "of no use here: no usable NVIDIA GPU"),
        ("tensorrt-rtx", "8.9", True, True, "builds and runs engines"),
        ("tensorrt-rtx", "12.1", True, True, "builds and runs engines"),
        ("tensorrt-rtx", "9.0", False, True, "builds engines, runs none: it runs on compute"),
        ("tensorrt-rtx", None, False, True, "builds engines, runs none: no usable NVIDIA GPU"),
    ],
)
def test_each_tensorrt_is_judged_by_the_gpu(
    name: str, capability: str | None, runs: bool, builds: bool, note: str
) -> None:
    runtime = judge_library(EDITIONS[name], READY, (), Machine(True, capability))
    assert (runtime.runs, runtime.builds) == (runs, builds)
    assert runtime.note.startswith(note)


def test_gpus_are_put_together_from_nvml_and_cuda() -> None:
    ada = GpuFacts("Ada", "GPU-1", "8.9", 2**34, "570.1", "12.8")
    fields, refused = dict(vars(ada)), DynexportError("CUDA refused")
    assert judge_gpus([fields], ("Ada", "8.9")) == ((ada,), "8.9", None)
    assert judge_gpus([fields], refused) == ((ada,), None, "CUDA refused")
    assert judge_gpus(DynexportError("no driver"), refused) == ((), None, "no driver")
    orin = GpuFacts("Orin", None, "8.7", None, None, None)  # before JetPack 6 there is no NVML
    assert judge_gpus(DynexportError("no NVML"), ("Orin", "8.7")) == ((orin,), "8.7", None)


def test_gpus_are_printed_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    ada = GpuFacts("NVIDIA L4", "GPU-1", "8.9", 23 * 2**30, "570.1", "12.8")
    orin = GpuFacts("Orin (nvgpu)", None, "8.7", None, "540.4.0", None)
    found = Diagnosis("1", "3", "python", "Linux", (), (), (ada, orin), None, "why", (), (), True)
    show_diagnosis(found)
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("GPU")
    assert lines[place + 1 : place + 4] == [
        "  NVIDIA L4      compute capability 8.9, memory 23 GiB, driver 570.1, CUDA up to 12.8",
        "  Orin (nvgpu)   compute capability 8.7, driver 540.4.0",
        "  not usable: why",
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(3)", "it ends Python with exit code 3"),
        ("import time; time.sleep(60)", "it takes more than 1 seconds"),
        ("raise RuntimeError", "RuntimeError"),
        ("try: 1 / 0\nexcept Exception as e: raise ImportError('advice') from e", "ZeroDivision"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_a_probe_survives_what_it_imports(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    fake(folder, "poison", code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(probes, "PATIENCE", 1.0)
    with pytest.raises(ProbeError, match=reason):
        probes.ask(import_package, "poison", "poison")


def test_a_probe_is_not_misled_by_what_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import atexit\nprint('hello')\natexit.register(print, 'bye')\n__version__ = '1.2'"
    fake(folder, "chatty", code)
    monkeypatch.syspath_prepend(folder)
    assert probes.ask(import_package, "chatty", "chatty") == "1.2"
    assert probes.ask(import_package, "absent", "absent") is None
