"""`dynexport doctor` on this installation, on one that lacks packages, and on broken ones.

Packages are hidden, and put in the place of others, by a folder on PYTHONPATH: nothing that is
installed is touched.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dynexport import cli
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

pytestmark = pytest.mark.slow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def bringing(*extras: str) -> str:
    """The command for what pyproject.toml lists under these extras."""
    listed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    needs = [need for extra in extras for need in listed[extra]]
    return "pip install " + " ".join(f"'{n}'" for n in needs if not n.startswith("dynexport"))


CONVERT = bringing("convert")

HIDE = """
from importlib.machinery import PathFinder
from pathlib import Path

here = [str(Path(__file__).parent)]
modules, packages = {modules!r}, {packages!r}
find_spec, find_distributions = PathFinder.find_spec, PathFinder.find_distributions


def visible_spec(cls, name, path=None, target=None):
    return find_spec(name, here if name in modules else path, target)


def visible_distributions(*arguments):
    found = find_distributions(*arguments)
    return (each for each in found if each.metadata["Name"].lower() not in packages)


PathFinder.find_spec = classmethod(visible_spec)
PathFinder.find_distributions = visible_distributions
"""
"""Run by Python as it starts: the packages are found in its own folder or not at all."""

CRASH = """
import os, signal, sys
print("libnvinfer: illegal instruction", file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def package(self, name: str) -> dict[str, Any]:
        """What is told of a package or runtime."""
        listed = self.json["packages"] + self.json["runtimes"]
        (found,) = (package for package in listed if package["name"] == name)
        return dict(found)

    def command(self, name: str) -> dict[str, Any]:
        (found,) = (command for command in self.json["commands"] if command["name"] == name)
        return dict(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stands first on PYTHONPATH."""
    path = tmp_path / "fakes, 模型"
    path.mkdir()
    return path


def hide(folder: Path, **packages: str) -> None:
    """Hide modules, each with its package."""
    text = HIDE.format(modules=set(packages), packages=set(packages.values()))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")


def fake(folder: Path, module: str, code: str, version: str | None = None) -> None:
    """A module, and what pip would have recorded of it."""
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(code, encoding="utf-8")
    if version is not None:
        record = folder / f"{module}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Name: {module}\nVersion: {version}\n", encoding="utf-8")


def doctor(folder: Path, *arguments: str, script: tuple[str, ...] = ("-m", "dynexport")) -> Ran:
    inherited = os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [
            sys.executable,
            *script,
            *(arguments if script[0] == "-c" else ("doctor", "-q", *arguments)),
        ],
        capture_output=True,
        encoding="utf-8",
        cwd=folder.parent,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), inherited))),
            "PYTHONIOENCODING": "utf-8",
        },
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


# ---------------------------------------------------------------- this installation


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


# ---------------------------------------------------------------- less of it


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


# ---------------------------------------------------------------- broken


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


# ---------------------------------------------------------------- its parts


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
