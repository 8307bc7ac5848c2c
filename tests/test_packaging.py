"""The package as a whole: what it exports, what it imports, what goes into the wheel."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import dynexport

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "DynexportError",
    "KeepSchedule",
    "Precision",
    "bench_model",
    "build_engine",
    "check_model",
    "convert",
    "create",
    "inspect_file",
    "optimize_model",
    "search_schedule",
    "sweep_checkpoint",
    "verify_model",
    "visualize_images",
    "write_report",
}


def run_python(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """From another folder than the source tree, which would stand before what is installed."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_public_names() -> None:
    assert set(dynexport.__all__) == PUBLIC
    for name in PUBLIC:
        assert callable(getattr(dynexport, name))
    modules = {path.stem for path in (ROOT / "dynexport").iterdir()} | {"models", "calibration"}
    assert not PUBLIC & modules


def test_importing_imports_no_runtime(tmp_path: Path) -> None:
    runtimes = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"}
    heavy = {"torch", "onnx", "onnxscript", *runtimes}
    script = f"import sys, dynexport, dynexport.cli; print({heavy} & set(sys.modules))"
    done = run_python(script, tmp_path)
    assert done.stdout.strip() == "set()", done.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """What `dynexport --help` waits for is what it imports."""
    heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "numpy", "PIL"}
    script = (
        "import sys; from dynexport.cli import main\n"
        f"try: main(['--help'])\nexcept SystemExit: print({heavy} & set(sys.modules))"
    )
    done = run_python(script, tmp_path)
    assert "convert" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_device_side_needs_no_pytorch(tmp_path: Path) -> None:
    """Verifying and benching import neither torch nor the models."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import dynexport.bench, dynexport.pipeline, dynexport.verify, dynexport.timing_worker\n"
        "print('dynexport.models' in sys.modules)"
    )
    done = run_python(script, tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(["dynexport", *path.parent.relative_to(ROOT / base).parts, *name])
        for base, name in (
            ("dynexport", ()),
            ("models", ("models",)),
            ("calibration", ("calibration",)),
        )
        for path in (ROOT / base).rglob("__init__.py")
    }
    assert listed == found


def test_every_data_file_is_listed_for_the_wheel() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {
        path
        for package, patterns in setup["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    found = {path for path in (ROOT / "dynexport").rglob("*") if path.is_file()}
    assert listed == {path for path in found if path.suffix not in (".py", ".pyc")}
    assert ROOT / "dynexport" / "visualize" / "imagenet_1k.txt" in listed


def test_version_is_told_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == dynexport.__version__


ORDER = {
    "errors": set(),
    "keep": {"errors"},
    "limits": {"keep"},
    "extras": {"errors"},
    "labels": {"errors", "files"},
    "files": {"errors"},
    "gpu": {"errors"},
    "profile": set(),
    "remarks": set(),
    "calibration": {"errors", "files"},
    "models": {"errors", "files", "keep"},
    "metadata": {"errors", "calibration", "keep"},
    "drawing": set(),
    "strips": {"errors", "drawing", "files", "keep", "metadata"},
    "onnxfile": {"errors", "files", "metadata"},
    "reference": {"errors", "files", "calibration", "metadata"},
    "graph": {"errors", "metadata", "onnxfile"},
    "checkpoint": {"errors", "files", "models", "remarks"},
    "rewrite": {"errors", "keep", "models"},
    "macs": {"models"},
    "export": {"errors", "graph", "metadata", "models", "reference", "remarks"},
    "precision": {
        *("errors", "backends", "calibration", "graph", "metadata", "onnxfile"),
        *("progress", "remarks", "verify"),
    },
    "progress": set(),
    "backends": {"errors", "files", "progress", "remarks"},
    "probes": {"errors", "gpu", "backends"},
    "sidecar": {"errors", "files", "backends", "metadata"},
    "preflight": {"errors", "backends", "graph", "limits", "onnxfile", "remarks"},
    "engine": {
        *("errors", "files", "backends", "graph", "metadata", "onnxfile"),
        *("preflight", "progress", "sidecar"),
    },
    "timing": {"errors"},
    "timing_worker": {"errors", "backends"},
    "contenders": {
        *("errors", "files", "backends", "graph", "metadata", "onnxfile"),
        *("engine", "sidecar", "timing"),
    },
    "bench": {
        *("errors", "backends", "graph", "metadata"),
        *("contenders", "gpu", "profile", "progress", "timing"),
    },
    "subject": {"errors", "backends", "engine", "graph", "metadata", "onnxfile"},
    "verify": {
        *("errors", "backends", "calibration", "graph", "metadata", "onnxfile"),
        *("progress", "reference", "subject"),
    },
}
"""Which parts each part may import: arrows point one way."""

TOP = {
    "__init__",
    "__main__",
    "foreign",
    "optimize",
    "pipeline",
    "report",
    "rebuild",
    "visualize",
    "sweep",
    "inspection",
    "doctor",
    "cli",
    "console",
}
"""These may import all of them."""


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "dynexport" else parts[0]


def test_imports_point_one_way() -> None:
    files = [
        p for base in ("dynexport", "models", "calibration") for p in (ROOT / base).rglob("*.py")
    ]
    for path in files:
        part = part_of(path)
        if part not in ORDER:
            assert part in TOP, path
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dynexport."):
                imported = (node.module or "").split(".")[1]
                assert imported in ORDER[part] | {part}, f"{path} imports {node.module}"
