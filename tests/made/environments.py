"""Environments of their own, into which dynexport is installed as users do it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PINS = ROOT / "requirements.txt"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""Nothing of this installation shows in the other one."""

LACKS = "error: {} is not installed, and this step needs it: run  "
"""What a command that lacks a package says, before the command that installs it."""

BRIEFLY = ("--rounds", "1", "--round-seconds", "0.05")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Device:
    """A folder with an environment, ``env``, and the files that were carried there."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, python: str | Path) -> Device:
        """With an empty environment of this Python, and a copy of this installation's pip."""
        clean = {"env": ENVIRONMENT, "check": True}
        subprocess.run([python, "-m", "venv", "--without-pip", folder / "env"], **clean)
        spec = importlib.util.find_spec("pip")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        shutil.copytree(spec.submodule_search_locations[0], folder / "tools" / "pip")
        return cls(folder)

    @property
    def versions(self) -> dict[str, str]:
        """What is installed, by its name on the package index."""
        (site,) = (self.folder / "env").glob("lib/python*/site-packages")
        found = importlib.metadata.distributions(path=[str(site)])
        return {one.metadata["Name"]: one.version for one in found}

    @property
    def packages(self) -> set[str]:
        return set(self.versions)

    def run(self, program: str, *arguments: str) -> Ran:
        done = subprocess.run(
            [self.folder / "env" / "bin" / program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**ENVIRONMENT, "XDG_CACHE_HOME": str(self.folder / "cache")},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def dynexport(self, *arguments: str) -> Ran:
        return self.run("dynexport", *arguments)

    def refusal(self, *arguments: str) -> str:
        """The one sentence of a command that cannot do its work."""
        ran = self.dynexport(*arguments)
        assert (ran.code, ran.out) == (2, "")
        *progress, sentence = ran.err.splitlines()
        assert all(line.startswith("... ") for line in progress)
        return sentence

    def pip(self, *arguments: str) -> None:
        """By this installation's pip, copied: making another environment's takes longer."""
        ran = self.run("python", str(self.folder / "tools" / "pip"), *arguments)
        if ran.code and "after connection broken by" in ran.err:
            pytest.skip("the package index cannot be reached")
        assert ran.code == 0, ran.err

    def install(self, *wanted: str, pins: Path = PINS) -> set[str]:
        """Install what a user asked pip for, in pinned versions; the packages that came with it."""
        before = self.packages
        self.pip("install", "--no-compile", "--retries", "2", "--constraint", str(pins), *wanted)
        return self.packages - before

    def obey(self, package: str, *arguments: str) -> set[str]:
        """Run, to the letter, what a command says that lacks a package; what it installed."""
        refused = self.refusal(*arguments)
        assert refused.startswith(LACKS.format(package))
        program, install, *wanted = shlex.split(refused.removeprefix(LACKS.format(package)))
        assert (program, install) == ("pip", "install")
        return self.install(*wanted)
