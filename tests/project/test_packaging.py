"""The package as a whole: what it exports, what it imports, what goes into the wheel."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import dynexport

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "DynexportError",
    "KeepSchedule",
    "Limits",
    "Plan",
    "Precision",
    "Recipe",
    "Rig",
    "bench_model",
    "build_engine",
    "check_model",
    "convert",
    "create",
    "inspect_file",
    "optimize_model",
    "rewrite",
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
        "import dynexport.bench.stopwatch, dynexport.conversion, dynexport.verify\n"
        "print('dynexport.models' in sys.modules)"
    )
    done = run_python(script, tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_without_pytorch_help_and_star_imports_work_and_calls_say_what_lacks(
    tmp_path: Path,
) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import dynexport, pydoc\n"
        "from dynexport import *\n"
        "assert 'create' in pydoc.plain(pydoc.render_doc(dynexport))\n"
        "for function in (create, dynexport.create, rewrite):\n"
        "    assert 'torch is not installed' in function.__doc__\n"
        "    try: function('deit-s')\n"
        "    except DynexportError as error: print(error)"
    )
    done = run_python(script, tmp_path)
    told = "torch is not installed, and this step needs it: run  pip install 'torch>="
    assert [line[: len(told)] for line in done.stdout.splitlines()] == [told] * 3, done.stderr


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


LAYERS = (
    "requirements errors schedule files progress workers",
    "tasks",
    "images models",
    "formats",
    "runtimes",
    "graph compare",
    "pytorch calibration check",
    "precision engine",
    "optimize",
    "artifact bench inspection",
    "verify",
    "conversion visualize",
    "sweep",
    "doctor",
    "report",
    "cli",
)
"""Every part of the package: each imports what stands before it in this list, and nothing else."""

ORDER = [part for layer in LAYERS for part in layer.split()]


def sources() -> dict[Path, str]:
    """Every file of the package and the part it belongs to; the two at the door apart."""
    found = {}
    for base in ("dynexport", "models", "calibration"):
        for path in (ROOT / base).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[path] = parts[1] if parts[0] == "dynexport" else parts[0]
    return {path: part for path, part in found.items() if not part.startswith("__")}


def imported(path: Path) -> set[str]:
    """What a file imports, dotted; ``from package import module`` counts as that module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_part_has_its_place() -> None:
    assert set(sources().values()) == set(ORDER)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, part in sources().items()
        for name in imported(path)
        if name.startswith("dynexport.")
        and name.split(".")[1] in ORDER
        and ORDER.index(name.split(".")[1]) > ORDER.index(part)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not even for types alone; a package's own door apart, ``__init__.py``."""
    names = {module_name(path): path for path in sources()}
    left = {name: modules_behind(name, path, names) for name, path in names.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def module_name(path: Path) -> str:
    """Dotted, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    inside = parts if parts[0] == "dynexport" else ("dynexport", *parts)
    return ".".join(inside).removesuffix(".__init__")


def modules_behind(name: str, path: Path, names: Collection[str]) -> set[str]:
    """What a file imports of the package: modules, or the packages that names are taken from."""
    wanted = (each if each in names else each.rpartition(".")[0] for each in imported(path))
    return {each for each in wanted if each in names} - {name, name.rpartition(".")[0]}


def test_pytorch_is_imported_in_two_places() -> None:
    users = {
        part
        for path, part in sources().items()
        if any(name.split(".")[0] in ("torch", "safetensors") for name in imported(path))
    }
    assert users == {"models", "pytorch"}


def test_loose_modules() -> None:
    assert len(list((ROOT / "dynexport").glob("*.py"))) <= 8
