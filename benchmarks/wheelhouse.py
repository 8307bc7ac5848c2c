"""Gather every wheel that an offline GPU machine needs, in parts small enough to carry over.

    python benchmarks/wheelhouse.py --extras gpu,rtx,cuda --python 3.11 --platform linux_x86_64

writes a folder of

    part-000/ part-001/ ...   each at most --piece-mb: wheels, and pieces NAME.whl.000 of large ones
    MANIFEST.json             what belongs to it, with sizes and SHA-256
    join.py                   run there: makes the folder `wheels`, and tells how to install it

Needs pip and Linux, and no more. Versions are those of requirements.txt where it names them.
"""

from __future__ import annotations

import argparse
import email.parser
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "dynexport", "models", "calibration")
EXTRAS = "gpu,rtx,cuda"
PLATFORMS = ("linux_x86_64", "linux_aarch64")
PYTORCH = "https://download.pytorch.org/whl/"
MANIFEST = "MANIFEST.json"

PIP_FOR_ANOTHER = """
import platform, runpy
version, machine = {version!r}, {machine!r}
platform.python_version = lambda: version
platform.python_version_tuple = lambda: tuple(version.split("."))
platform.machine = lambda: machine
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""pip takes the wheels of another machine if told, but goes by its own machine and Python in a
requirement's conditions, as in ``tomli; python_version < "3.11"``."""

NO_WHEEL = re.compile(
    r"(?:No matching distribution found for|The user requested \(constraint\)) "
    r"(?P<requirement>[^;\s]+)"
)
"""How pip tells what the index has no wheel of."""


class WheelhouseError(Exception):
    """What keeps the wheelhouse from being made, and what to do."""


@dataclass(frozen=True)
class Target:
    """The machine the wheels are for: Python as in 3.11, and the oldest glibc it may have."""

    python: str
    platform: str
    glibc: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.\d+", self.python):
            raise WheelhouseError(f"--python {self.python!r} is no version: write it as 3.11")
        if not re.fullmatch(r"2\.\d+", self.glibc):
            raise WheelhouseError(f"--glibc {self.glibc!r} is no version: write it as 2.35")

    @property
    def machine(self) -> str:
        return self.platform.removeprefix("linux_")

    @property
    def tags(self) -> list[str]:
        """Of the platforms whose wheels run there, the newest first."""
        newest = int(self.glibc.partition(".")[2])
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, 4, -1)]
        return [*tags, *(f"manylinux{name}_{self.machine}" for name in ("2014", "2010", "1"))]

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform} with glibc {self.glibc}"


@dataclass(frozen=True)
class Pip:
    """What one run of pip said."""

    code: int
    said: str

    @property
    def error(self) -> str:
        """Why it failed: the requirements that exclude each other, or its last word."""
        conflict = re.search(r"The conflict is caused by:\n(.+?)\n\n", self.said, re.DOTALL)
        if conflict is not None:
            return "; ".join(line.strip() for line in conflict[1].splitlines())
        lines = self.said.strip().splitlines() or [f"it ended with code {self.code}"]
        return (re.findall(r"ERROR: (.+)", self.said) or lines)[-1]


def run_pip(
    arguments: Sequence[str | Path], target: Target | None = None, shown: set[str] | None = None
) -> Pip:
    """Run pip, for another machine if one is given; tells what it downloads, unless shown."""
    shown = set() if shown is None else shown
    start = ["-m", "pip"]
    if target is not None:
        here = sys.version_info
        patch = here.micro if target.python == f"{here.major}.{here.minor}" else 0
        version = f"{target.python}.{patch}"
        start = ["-c", PIP_FOR_ANOTHER.format(version=version, machine=target.machine)]
    command = [sys.executable, *start, "--disable-pip-version-check", *map(str, arguments)]
    said = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                said.append(line)
                if line.lstrip().startswith("Downloading ") and line not in shown:
                    shown.add(line)
                    print(f"  {line.strip()}", flush=True)
        except BaseException:
            pip.kill()
            raise
    return Pip(pip.returncode, "".join(said))


def build_own_wheel(folder: Path) -> Path:
    """dynexport's wheel, built of a copy: the build leaves files beside its sources."""
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    done = run_pip(["wheel", "--no-deps", "--wheel-dir", folder / "own", copy])
    if done.code:
        raise WheelhouseError(f"pip cannot build the wheel of {ROOT}: {done.error}")
    (wheel,) = (folder / "own").glob("*.whl")
    return wheel


def read_metadata(wheel: Path) -> Any:
    """The METADATA of a wheel, as an email message."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(path).decode())


def require_extras(wheel: Path, extras: Sequence[str]) -> None:
    known = read_metadata(wheel).get_all("Provides-Extra") or []
    for extra in extras:
        if extra not in known:
            raise WheelhouseError(f"unknown extra {extra!r}: choose from {', '.join(known)}")


def torch_arguments(build: str) -> tuple[str, list[str]]:
    """The requirement of a build of PyTorch, in the version of requirements.txt, and its index.

    ``===`` keeps out the CPU build, which to ``==`` is the same version.
    """
    pinned = re.search(r"^torch==([\d.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        raise WheelhouseError(f"{REQUIREMENTS} pins no torch: name one with --add torch==VERSION")
    if build == "pypi":
        return f"torch==={pinned[1]}", []
    return f"torch==={pinned[1]}+{build}", ["--extra-index-url", PYTORCH + build]


def download_wheels(
    requirements: Sequence[str], target: Target, folder: Path, index: Sequence[str] = ()
) -> list[Path]:
    """All that is required, and all that needs, as wheels for the target.

    Of packages that the index has as sources alone, wheels are built here; pip takes those that
    fit the target, such as the packages that only pull in others.
    """
    built = folder / "built"
    built.mkdir()
    tried: set[str] = set()
    shown: set[str] = set()
    tags = [f"--platform={tag}" for tag in target.tags]
    while True:
        done = run_pip(
            [
                *("download", *index, *requirements, "--dest", folder / "wheels"),
                *("--only-binary=:all:", "--implementation=cp", *tags),
                *(f"--python-version={target.python}", "--find-links", built),
                *(("--constraint", REQUIREMENTS) if REQUIREMENTS.exists() else ()),
            ],
            target,
            shown,
        )
        if done.code == 0:
            return sorted((folder / "wheels").glob("*.whl"))
        missing = {found["requirement"] for found in NO_WHEEL.finditer(done.said)}
        if not missing or missing & tried:
            raise WheelhouseError(f"pip finds no set of wheels for {target}: {done.error}")
        for requirement in sorted(missing):
            build_from_sources(requirement, built)
        tried |= missing


def build_from_sources(requirement: str, folder: Path) -> None:
    print(f"no wheel of {requirement} fits: building it from its source", flush=True)
    done = run_pip(["wheel", "--no-deps", "--wheel-dir", folder, requirement])
    if done.code:
        raise WheelhouseError(f"pip finds no {requirement} and cannot build it: {done.error}")


def cut(size: int, limit: int) -> list[int]:
    """Sizes of the pieces of a file: all of ``limit`` bytes but the last, never an empty rest."""
    return [min(limit, size - start) for start in range(0, size, limit)] or [0]


def pack(sizes: Sequence[int], limit: int) -> list[int]:
    """The part each piece goes into: the first with room for it, the largest pieces first."""
    parts: list[int] = []
    chosen = [0] * len(sizes)
    for piece in sorted(range(len(sizes)), key=lambda piece: -sizes[piece]):
        fitting = (part for part, filled in enumerate(parts) if filled + sizes[piece] <= limit)
        chosen[piece] = next(fitting, len(parts))
        if chosen[piece] == len(parts):
            parts.append(0)
        parts[chosen[piece]] += sizes[piece]
    return chosen


def write_parts(wheels: Sequence[Path], limit: int, folder: Path) -> list[dict[str, Any]]:
    """Cut wheels and put them into folders of at most ``limit`` bytes; what the manifest says."""
    cuts = [cut(wheel.stat().st_size, limit) for wheel in wheels]
    parts = iter(pack([size for sizes in cuts for size in sizes], limit))
    listed = []
    for wheel, sizes in zip(wheels, cuts, strict=True):
        whole, pieces = hashlib.sha256(), []
        with wheel.open("rb") as stream:
            for number, size in enumerate(sizes):
                name = wheel.name if len(sizes) == 1 else f"{wheel.name}.{number:03}"
                file = f"part-{next(parts):03}/{name}"
                content = stream.read(size)
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(content)
                whole.update(content)
                digest = hashlib.sha256(content).hexdigest()
                pieces.append({"file": file, "size": size, "sha256": digest})
        facts = {"name": wheel.name, "size": sum(sizes), "sha256": whole.hexdigest()}
        listed.append({**facts, "pieces": pieces})
        wheel.unlink()
    return listed


def require_replaceable(out: Path) -> None:
    """WheelhouseError where something stands that is neither empty nor a wheelhouse."""
    if not out.exists() or (out / MANIFEST).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise WheelhouseError(f"{out} is there and is no wheelhouse: choose another with --out")


def make_wheelhouse(options: argparse.Namespace) -> None:
    """Gather in a folder beside ``--out`` that takes its place once it is complete."""
    if not sys.platform.startswith("linux"):
        raise WheelhouseError(f"pip cannot tell on {sys.platform} what Linux needs: run it there")
    target = Target(options.python, options.platform, options.glibc)
    limit = int(options.piece_mb * 1e6)
    if limit < 1:
        raise WheelhouseError(f"--piece-mb {options.piece_mb:g} leaves no room: give 1 or more")
    extras = {extra.strip() for extra in options.extras.split(",")} - {""}
    others, index = list(options.add), []
    if options.torch:
        torch, index = torch_arguments(options.torch)
        others.append(torch)
        extras.add("convert")
    out = options.out.resolve()
    require_replaceable(out)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    gathered, ready = draft / "gathered", draft / "ready"
    try:
        for folder in (gathered, ready):
            folder.mkdir(parents=True)
        own = build_own_wheel(gathered)
        require_extras(own, sorted(extras))
        chosen = f"[{','.join(sorted(extras))}]" if extras else ""
        wheels = download_wheels([f"{own}{chosen}", *others], target, gathered, index)
        facts = read_metadata(own)
        manifest = {
            "for": vars(target),
            "install": [f"{facts['Name']}{chosen}=={facts['Version']}", *others],
            "wheels": write_parts(wheels, limit, ready),
        }
        (ready / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        shutil.copy(Path(__file__).with_name("join.py"), ready)
        _replace(ready, out, draft / "old")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    show_wheelhouse(out, manifest["wheels"])


def _replace(new: Path, out: Path, old: Path) -> None:
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)


def show_wheelhouse(out: Path, wheels: Sequence[dict[str, Any]]) -> None:
    size, parts = sum(wheel["size"] for wheel in wheels) / 1e6, len(list(out.glob("part-*")))
    print(f"{out}: {len(wheels)} wheels, {size:,.1f} MB, in {parts} part{'s' * (parts != 1)}")
    print("copy it to the offline machine, whole or part by part, and run there  python join.py")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Gather the wheels that an offline GPU machine needs, in parts to carry over."
    )
    add = parser.add_argument
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    add("--extras", default=EXTRAS, help="of dynexport, with commas (default: %(default)s)")
    add(
        "--torch",
        metavar="BUILD",
        help="PyTorch with CUDA, gigabytes, and what converting needs: pypi, or a build of "
        "download.pytorch.org, as cu130",
    )
    add("--add", action="append", default=[], metavar="REQUIREMENT", help="another package")
    add("--python", default=here, help="there (default: %(default)s, as here)")
    add("--platform", default=PLATFORMS[0], choices=PLATFORMS, help="default: %(default)s")
    add("--glibc", default="2.35", help="there (default: %(default)s, as of Ubuntu 22.04)")
    add("--piece-mb", type=float, default=60, help="largest part, 10^6 bytes (default: 60)")
    add("--out", type=Path, default=ROOT / "out" / "wheelhouse", help="default: %(default)s")
    return parser.parse_args(arguments)


def main() -> NoReturn:
    """Exit code 0: the folder is complete; 2: it is as it was before, and why."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the draft is removed
    problem = None
    try:
        options = parse_options()
        make_wheelhouse(options)
    except WheelhouseError as error:
        problem = str(error)
    except OSError as error:  # a full disk, a folder that cannot be written
        problem = f"cannot write {options.out}: {error.strerror}; choose another with --out"
    except KeyboardInterrupt:
        sys.exit(130)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(2 if problem else 0)


if __name__ == "__main__":
    main()
