"""What pages and messages tell users to install: it exists, and brings what it should.

dynexport is on no package index, so nobody is told to ask one for it.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dynexport
from dynexport.doctor.packages import read_all_needs
from dynexport.errors import DynexportError, MissingExtraError
from dynexport.requirements import IN_A_CLONE, install_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

READ = ("*.md", "*.py", "*.sh", "*.html", "Dockerfile", "Makefile")
"""What users read, or see printed."""

WHEEL = f"dynexport-{dynexport.__version__}-py3-none-any.whl"


def lines() -> Iterator[tuple[str, str]]:
    """Every line of what users read, and where it stands; the changelog tells of the past."""
    for folder in (".", "docs", "docker", "examples", "benchmarks", *MODULES):
        for pattern in READ:
            search = (ROOT / folder).glob if folder == "." else (ROOT / folder).rglob
            for path in sorted(search(pattern)):
                if path.name != "CHANGELOG.md":
                    for number, line in enumerate(path.read_text().splitlines(), 1):
                        yield f"{path.relative_to(ROOT)}:{number}", line


MODULES = ("dynexport", "models", "calibration")


def test_nobody_is_sent_to_an_index_for_dynexport() -> None:
    """From a clone it is `.`, else a wheel; offline pip looks into a folder that holds one."""
    told = {place: line for place, line in lines() if re.search(r"pip install", line)}
    assert len(told) > 15
    for place, line in told.items():
        named = re.search(r"pip install\b[^`#]*\bdynexport\b(?!-env)", line)
        assert not named or WHEEL in line or "--no-index" in line, f"{place}: {line.strip()}"
        for wheel in re.findall(r"dynexport-[\w.-]+\.whl", line):
            assert wheel == WHEEL, f"{place}: {line.strip()}"


def test_extras_that_are_named_exist() -> None:
    """In the form for a clone, or behind a wheel."""
    named = [
        (place, extra)
        for place, line in lines()
        for names in re.findall(r"pip install .*(?:['/ ]\.|\.whl|dynexport)\[([\w,]+)\]", line)
        for extra in names.split(",")
    ]
    assert len(named) > 10
    assert not [one for one in named if one[1] not in EXTRAS]


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_command_names_what_an_extra_brings(extra: str) -> None:
    own, inner = [], []
    for listed in EXTRAS[extra]:
        required = Requirement(listed)
        if required.name == "dynexport":
            inner += [need for one in required.extras for need in EXTRAS[one]]
        else:
            own.append(listed)
    assert own
    command = "pip install " + " ".join(f"'{need}'" for need in [*own, *inner])
    assert install_command("something", extra) == command
    assert str(MissingExtraError("something", extra)).endswith(f": run  {command}")


def test_what_everything_needs_and_what_is_not_ours() -> None:
    (pillow,) = (need for need in PROJECT["dependencies"] if need.startswith("pillow"))
    assert install_command("pillow", None) == f"pip install '{pillow}'"
    assert install_command("my-runtime", None) == "pip install 'my-runtime'"


def test_two_packages_of_the_same_modules_are_not_laid_over_each_other() -> None:
    error = MissingExtraError("onnxruntime with CUDA", "gpu", instead_of="onnxruntime")
    assert "run  pip uninstall onnxruntime  and then  pip install 'onnxruntime-gpu>=" in str(error)


def test_an_installation_without_its_metadata_is_not_called_healthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: None)
    with pytest.raises(DynexportError, match="metadata name nothing that it requires"):
        read_all_needs()


def test_sources_that_are_not_installed_are_told_the_way_from_a_clone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", unknown)
    told = IN_A_CLONE.format(extra="convert")
    assert str(MissingExtraError("torch", "convert")).endswith(
        f"run  {told}  in a clone of dynexport"
    )
    assert install_command("pillow", None) == "pip install 'pillow'"
