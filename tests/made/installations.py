"""Installations that lack packages, or have others in their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    pass
else:
    pass

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


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
