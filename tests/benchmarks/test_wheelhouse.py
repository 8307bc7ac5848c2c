"""Wheels for an offline machine: cut and joined, and gathered from a folder instead of the network.

The scripts run as they are, in a small project laid out as this one is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(script: str) -> Any:
    spec = spec_from_file_location(script, BENCHMARKS / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[script] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


wheelhouse = load("wheelhouse")

LIMIT = 1000
SIZES = {"empty": 0, "one": 1, "exact": 1000, "over": 1001, "twice": 2000, "large": 3456}


def content_of(name: str) -> bytes:
    return (hashlib.sha256(name.encode()).digest() * 200)[: SIZES[name]]


WHEELS = {f"{name}-1-py3-none-any.whl": content_of(name) for name in SIZES}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Made-up wheels, cut, with the joiner."""
    folder = tmp_path / "a house, 模型"
    folder.mkdir()
    for name, content in WHEELS.items():
        (tmp_path / name).write_bytes(content)
    manifest = {
        "for": {"python": "3.11", "platform": "linux_x86_64", "glibc": "2.35"},
        "install": ["dynexport[gpu]==0.1.0", "numpy<3"],
        "wheels": wheelhouse.write_parts([tmp_path / name for name in WHEELS], LIMIT, folder),
    }
    assert not list(tmp_path.glob("*.whl"))
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    shutil.copy(BENCHMARKS / "join.py", folder)
    return folder


def run(script: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """From another folder than the script's."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        encoding="utf-8",
        cwd=script.anchor,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(1, 3000))
def test_pieces_make_up_the_file(size: int, limit: int) -> None:
    pieces = wheelhouse.cut(size, limit)
    assert sum(pieces) == size
    assert all(piece == limit for piece in pieces[:-1])
    assert 0 < pieces[-1] <= limit or pieces == [0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 100)))
def test_parts_are_full_but_never_too_large(sizes: list[int]) -> None:
    filled: dict[int, int] = {}
    for size, part in zip(sizes, wheelhouse.pack(sizes, 100), strict=True):
        filled[part] = filled.get(part, 0) + size
    assert sorted(filled) == list(range(len(filled)))
    assert all(size <= 100 for size in filled.values())
    assert len(filled) <= 1 or sum(sorted(filled.values())[:2]) > 100


def test_large_wheels_are_cut_and_small_ones_packed(house: Path) -> None:
    parts = [files_in(part) for part in house.glob("part-*")]
    assert all(sum(map(len, part.values())) <= LIMIT for part in parts)
    assert len(parts) == 8
    pieces = sorted(name.replace("-1-py3-none-any.whl", "") for part in parts for name in part)
    whole = ["empty", "exact"]
    cut = ["large.000", "large.001", "large.002", "large.003"]
    assert pieces == [*whole, *cut, "one", "over.000", "over.001", "twice.000", "twice.001"]


def test_joining_gives_the_wheels_back(house: Path) -> None:
    for _ in range(2):  # the second time over the first's
        done = run(house / "join.py")
        assert (done.returncode, done.stderr) == (0, "")
        assert files_in(house / "wheels") == WHEELS
    told, where, command = done.stdout.splitlines()
    assert told == "6 wheels, 0.0 MB, all as they were packed. Install them with"
    assert where == "Python 3.11 on linux_x86_64, glibc 2.35 or later:"
    assert command == (
        f"python -m pip install --no-index --find-links '{house}/wheels' "
        "'dynexport[gpu]==0.1.0' 'numpy<3'"
    )


def test_joining_elsewhere(house: Path, tmp_path: Path) -> None:
    (tmp_path / "there" / ".joining").mkdir(parents=True)  # as an interrupted run leaves it
    (tmp_path / "there" / ".joining" / "over-1-py3-none-any.whl").write_text("half of it")
    done = run(house / "join.py", "--into", str(tmp_path / "there"))
    assert done.returncode == 0
    assert files_in(tmp_path / "there") == WHEELS
    assert not (house / "wheels").exists()


def edit(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A change of the second piece of ``large``."""
    return lambda house: change(next(house.glob("part-*/large-*.001")))


def edit_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(house: Path) -> None:
        manifest = json.loads((house / "MANIFEST.json").read_text())
        change(manifest)
        (house / "MANIFEST.json").write_text(json.dumps(manifest))

    return apply


LARGE = "large-1-py3-none-any.whl"
FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("flipped bit", edit(lambda p: p.write_bytes(bytes([1]) + p.read_bytes()[1:])), "its SHA-256"),
    ("truncated", edit(lambda p: p.write_bytes(p.read_bytes()[:-1])), "999 bytes, expected 1,000"),
    ("missing", edit(Path.unlink), f"{LARGE}.001: missing"),
    ("no manifest", lambda h: (h / "MANIFEST.json").unlink(), "MANIFEST.json is missing: copy it"),
    ("half a manifest", lambda h: (h / "MANIFEST.json").write_text('{"wheels": ['), "is damaged"),
    ("another's", edit_manifest(lambda m: m.pop("wheels")), "MANIFEST.json is damaged: copy it"),
    (
        "sums",
        edit_manifest(lambda m: m["wheels"][1].update(sha256="0")),
        "one-1-py3-none-any.whl: its pieces do not make it up",
    ),
    (
        "a name that leads away",
        edit_manifest(lambda m: m["wheels"][0].update(name="../empty.whl")),
        "names '../empty.whl', a file outside its folder",
    ),
    (
        "a piece that leads away",
        edit_manifest(lambda m: m["wheels"][0]["pieces"][0].update(file="/etc/passwd")),
        "names '/etc/passwd', a file outside its folder",
    ),
]


@pytest.mark.parametrize(("change", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_damaged_wheelhouse_is_refused(
    house: Path, change: Callable[[Path], object], message: str
) -> None:
    change(house)
    done = run(house / "join.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not (house / "wheels").exists()


def test_every_piece_at_fault_is_named(house: Path) -> None:
    damaged = sorted(house.glob("part-*/*.00?"))[:3]
    for piece in damaged:
        piece.write_bytes(piece.read_bytes()[::-1] + b"!")
    told = run(house / "join.py").stderr.splitlines()
    assert told[0] == "error: these files must be copied here again, nothing was written:"
    named = sorted(line.strip().partition(":")[0] for line in told[1:])
    assert named == [piece.relative_to(house).as_posix() for piece in damaged]


def test_a_folder_that_cannot_be_written(house: Path) -> None:
    done = run(house / "join.py", "--into", str(house / "join.py"))
    assert done.returncode == 2
    assert "cannot join into" in done.stderr
    assert "choose another with --into" in done.stderr


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "{version}"
dependencies = ["{needs}"]
[project.optional-dependencies]
convert = ["torch>=2"]
gpu = ["modern>=1; python_version>='3.11'", "backport>=1; python_version<'3.11'"]
arm = ["armed>=1; platform_machine=='aarch64'"]
rtx = ["meta>=1"]
[tool.setuptools]
packages = []
"""

ANY = "py3-none-any"
INDEX = {
    "core-1.0": ANY,
    "core-1.1": ANY,
    "modern-1.0": ANY,
    "backport-1.0": ANY,
    "armed-1.0": "cp310-cp310-manylinux_2_34_aarch64",
    "binary-2.0": "py3-none-manylinux_2_28_aarch64",
    "torch-2.5": ANY,
    "torch-2.5+cpu": ANY,
}


@dataclass(frozen=True)
class Project:
    """A project whose pip sees only a folder."""

    root: Path
    index: Path

    @property
    def out(self) -> Path:
        return self.root / "out" / "wheelhouse"

    @property
    def env(self) -> dict[str, str]:
        return {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
            "PIP_NO_BUILD_ISOLATION": "0",  # for pip this means: build without isolation
        }

    def gather(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(self.root / "benchmarks" / "wheelhouse.py", *arguments, **self.env)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root, index = tmp_path / "a project, 模型", tmp_path / "index"
    for folder in (root, index):
        folder.mkdir()
    (root / "benchmarks").mkdir()
    for script in ("wheelhouse.py", "join.py"):
        shutil.copy(BENCHMARKS / script, root / "benchmarks")
    text = PROJECT.format(name="dynexport", version="0.1.0", needs="core>=1")
    (root / "pyproject.toml").write_text(text)
    pins = ["core==1.0", 'meta==1.5; python_version<"3.11"', "torch==2.5", "unrelated==3"]
    (root / "requirements.txt").write_text("\n".join(pins))
    for name, tag in INDEX.items():
        write_wheel(index, name, tag)
    write_source(tmp_path, index, "meta", "1.5", needs="binary==2.0")
    return Project(root, index)


def write_wheel(index: Path, name: str, tag: str, more: str = "") -> None:
    package, _, version = name.partition("-")
    with zipfile.ZipFile(index / f"{name}-{tag}.whl", "w") as archive:
        record = f"{name}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{more}"
        archive.writestr(f"{record}/METADATA", metadata)
        archive.writestr(f"{record}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{record}/RECORD", "")


def write_source(folder: Path, index: Path, name: str, version: str, needs: str) -> None:
    """A package that holds nothing but what it needs, as a source alone."""
    text = PROJECT.format(name=name, version=version, needs=needs)
    (folder / "pyproject.toml").write_text(text)
    (folder / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with tarfile.open(index / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for file in ("pyproject.toml", "PKG-INFO"):
            archive.add(folder / file, f"{name}-{version}/{file}")


def test_gathering_for_another_machine(project: Project) -> None:
    """Another Python and processor; a package without a wheel; a build of PyTorch; the pins."""
    extras = ("--extras", "gpu, arm,rtx", "--torch", "pypi")
    target = ("--python", "3.10", "--platform", "linux_aarch64")
    done = project.gather(*extras, *target, "--piece-mb", "0.0007")
    assert done.returncode == 0, done.stderr
    assert "no wheel of meta==1.5 fits: building it from its source" in done.stdout
    assert f"{project.out}: 7 wheels, 0.0 MB, in " in done.stdout
    manifest = json.loads((project.out / "MANIFEST.json").read_text())
    assert manifest["install"] == ["dynexport[arm,convert,gpu,rtx]==0.1.0", "torch===2.5"]
    assert manifest["for"] == {"python": "3.10", "platform": "linux_aarch64", "glibc": "2.35"}
    gathered = [wheel["name"] for wheel in manifest["wheels"]]
    assert [wheel.rsplit("-", 3)[0] for wheel in gathered] == [
        *("armed-1.0", "backport-1.0", "binary-2.0", "core-1.0"),
        *("dynexport-0.1.0", "meta-1.5", "torch-2.5"),
    ]
    parts = list(project.out.glob("part-*"))
    assert all(sum(map(len, files_in(part).values())) <= 700 for part in parts)
    assert run(project.out / "join.py").returncode == 0
    assert sorted(files_in(project.out / "wheels")) == sorted(gathered)
    assert sorted(path.name for path in project.root.iterdir()) == [
        *("benchmarks", "out", "pyproject.toml", "requirements.txt")
    ]


def test_what_cannot_be_gathered_leaves_everything_as_it_was(project: Project) -> None:
    project.out.mkdir(parents=True)
    (project.out / "MANIFEST.json").write_text("the one before")
    (project.index / "meta-1.5.tar.gz").write_bytes(b"")
    before = files_in(project.root)
    for arguments, message in (
        (("--extras", "rtx", "--python", "3.10"), "cannot build it"),
        (("--extras", "", "--add", "core>1"), "The user requested (constraint) core==1.0"),
    ):
        done = project.gather(*arguments)
        assert done.returncode == 2
        (told,) = done.stderr.splitlines()
        assert told.startswith("error: ")
        assert message in told
        assert files_in(project.root) == before


def test_an_extra_that_is_not_there(tmp_path: Path) -> None:
    write_wheel(tmp_path, "dynexport-0.1.0", ANY, "Provides-Extra: cpu\nProvides-Extra: gpu\n")
    (wheel,) = tmp_path.iterdir()
    wheelhouse.require_extras(wheel, ["cpu", "gpu"])
    with pytest.raises(wheelhouse.WheelhouseError, match="extra 'gp': choose from cpu, gpu"):
        wheelhouse.require_extras(wheel, ["cpu", "gp"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--python", "3"), "--python '3' is no version: write it as 3.11"),
        (("--glibc", "35"), "--glibc '35' is no version: write it as 2.35"),
        (("--piece-mb", "0"), "--piece-mb 0 leaves no room"),
        (("--platform", "win_amd64"), "invalid choice: 'win_amd64'"),
        (("--out", "benchmarks"), "benchmarks is there and is no wheelhouse"),
        (("--out", "requirements.txt"), "requirements.txt is there and is no wheelhouse"),
        (("--out", "requirements.txt/house"), "requirements.txt/house: Not a directory; choose"),
    ],
)
def test_wrong_options(project: Project, arguments: tuple[str, str], message: str) -> None:
    option, value = arguments
    before = files_in(project.root)
    done = project.gather(option, str(project.root / value) if option == "--out" else value)
    assert done.returncode == 2
    assert message in done.stderr
    assert files_in(project.root) == before


def test_an_interrupted_run_leaves_nothing(project: Project) -> None:
    out = project.out.parent
    gathering = subprocess.Popen(
        [sys.executable, str(project.root / "benchmarks" / "wheelhouse.py"), "--extras", "gpu"],
        env={**os.environ, **project.env},
    )
    for _ in range(1000):
        if out.exists() and any(out.iterdir()):
            break
        time.sleep(0.01)
    gathering.terminate()
    assert gathering.wait(timeout=20) == 143
    assert not any(out.iterdir())
