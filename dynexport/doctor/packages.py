"""What dynexport requires, and whether it is installed, new enough and not broken.

PyTorch and onnxscript, which take seconds to import, are looked up; all else is imported, in
processes of their own (`dynexport.doctor.probes`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, TypeVar

from packaging.version import InvalidVersion, Version

from dynexport.doctor import probes
from dynexport.doctor.probes import ProbeError
from dynexport.errors import DynexportError
from dynexport.requirements import Need, install_command, read_needs
from dynexport.runtimes.library import UNKNOWN, import_package, version_of

LOOKED_UP = frozenset({"torch", "onnxscript"})
"""Packages that are not imported to see whether they work."""

MODULES = {"pillow": "PIL", "cuda-python": "cuda.bindings.driver", "nvidia-ml-py": "pynvml"}
"""What is imported of a package, where its own name does not tell."""

T = TypeVar("T")
State = Literal["ready", "missing", "outdated", "broken"]


@dataclass(frozen=True)
class Package:
    """A package that dynexport uses.

    name     on the package index
    extra    of dynexport, that brings it; None: nothing works without it
    version  None where it is not installed, or does not tell
    state    ready; missing; outdated: older than dynexport takes; broken: it fails to import
    problem  a sentence, unless ready
    install  the command that brings it, where it is missing or outdated
    """

    name: str
    extra: str | None
    version: str | None
    state: State
    problem: str | None
    install: str | None


def read_all_needs() -> dict[str, Need]:
    """What the installed dynexport requires, by name; DynexportError if that cannot be read."""
    try:
        needs = {need.name: need for need in read_needs()}
    except importlib.metadata.PackageNotFoundError:
        raise DynexportError(
            "dynexport runs from a folder but is not installed: run  pip install FOLDER"
        ) from None
    if not needs:
        raise DynexportError(
            "dynexport's own metadata name nothing that it requires: its installation is damaged; "
            "uninstall it and install it again"
        )
    return needs


def module_of(package: str) -> str:
    """What is imported of a package."""
    return MODULES.get(package, package.replace("-", "_"))


def is_older(version: str, floor: str) -> bool:
    """Whether a release is older than another.

    Pre-releases count as what they precede, and what has no version number as new enough.
    """
    try:
        found, least = (Version(Version(text).base_version) for text in (version, floor))
    except InvalidVersion:
        return False
    return found < least


def attempt(question: Callable[..., T], *arguments: str) -> T | DynexportError:
    """The answer of `dynexport.doctor.probes`, or what went wrong."""
    try:
        return probes.ask(question, *arguments)
    except DynexportError as error:
        return error


def judge_package(need: Need, found: str | DynexportError | None) -> Package:
    """A package, by its version, by what went wrong at importing it, or None: not installed."""
    state: State
    if isinstance(found, DynexportError):
        state, version, problem = "broken", version_of(need.name), str(found)
        if isinstance(found, ProbeError):  # others tell it in a sentence of their own
            problem = f"{need.name} is installed but does not import: {found}"
    elif found is None:
        state, version, problem = "missing", None, f"{need.name} is not installed"
    elif is_older(found, need.floor):
        state, version = "outdated", found
        problem = f"{need.name} {found} is too old: {need.floor} or later is needed"
    else:
        return Package(need.name, need.extra, found, "ready", None, None)
    command = None if state == "broken" else install_command(need.name, need.extra)
    return Package(need.name, need.extra, version, state, problem, command)


def examine_packages(needs: Sequence[Need], pool: Executor) -> tuple[Package, ...]:
    """Each package, imported with all others in one process, and alone where that fails."""
    tried = [need for need in needs if need.name not in LOOKED_UP]
    named = [text for need in tried for text in (need.name, module_of(need.name))]
    together = attempt(probes.import_packages, *named)
    if isinstance(together, DynexportError):  # then each alone, to see which it is
        alone = pool.map(
            lambda need: attempt(import_package, need.name, module_of(need.name)), tried
        )
        found = dict(zip(tried, alone, strict=True))
    else:
        found = dict(zip(tried, together, strict=True))
    return tuple(
        judge_package(need, found[need] if need in found else _look_up(need)) for need in needs
    )


def _look_up(need: Need) -> str | None:
    spec = importlib.util.find_spec(module_of(need.name))
    there = spec is not None and spec.origin is not None  # else a folder that has its name
    return version_of(need.name) or UNKNOWN if there else None
