"""What is installed of a runtime, and what `doctor` says of it."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

from dynexport.errors import MissingExtraError

UNKNOWN = "of unknown version"
"""The version of what is installed but does not tell."""


@dataclass(frozen=True)
class Machine:
    """The GPU of a machine.

    gpu         whether the driver sees one
    capability  compute capability of the one that engines run on, as in 8.9; None: they run on none
    """

    gpu: bool = False
    capability: str | None = None


@dataclass(frozen=True)
class Use:
    """Whether a library runs models and builds engines on a machine; and in words, why not more."""

    runs: bool
    builds: bool
    note: str


@dataclass(frozen=True)
class Library:
    """What is installed of a runtime.

    name           as `doctor` and messages call it; on the package index, its usual name
    module         what is imported of it
    extra          of dynexport, that brings it; None: one installs it by its name
    distributions  on the package index, whose versions are told; empty: the name alone
    note           what it does, in the words of `doctor`
    compares       whether `convert`, `optimize` and `sweep` compare outputs in it, and so need it
    """

    name: str
    module: str
    extra: str | None = None
    distributions: tuple[str, ...] = ()
    note: str = "runs models"
    compares: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """What brings it, by the names on the package index."""
        return self.distributions or (self.name,)

    def require(self) -> None:
        """MissingExtraError unless it can be imported."""
        try:
            importlib.import_module(self.module)
        except ImportError:
            raise MissingExtraError(self.name, self.extra) from None

    def examine(self) -> tuple[str | None, tuple[str, ...]]:
        """Its version once it is imported, and the devices it runs models on, if it says.

        The version is None where it is not installed. `doctor` asks in a process of its own.
        """
        return import_package(self.name, self.module), ()

    def judge(self, machine: Machine, providers: tuple[str, ...]) -> Use:
        """What it is good for on a machine, once it is ready; ``providers`` as `examine` says."""
        return Use(runs=True, builds=False, note=self.note)


def import_package(package: str, module: str) -> str | None:
    """Version of a package once its module is imported; None where there is no such module."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            return None
        raise
    if loaded.__file__ is None:  # a folder that happens to have its name
        return None
    parents = [module.rsplit(".", dots)[0] for dots in range(module.count(".") + 1)]
    told = (getattr(sys.modules[parent], "__version__", None) for parent in parents)
    return version_of(package) or next(filter(None, told), UNKNOWN)


def version_of(package: str) -> str | None:
    """Its version by what pip recorded, without importing it; None if pip knows of none."""
    import importlib.metadata  # slow, and asked for seldom

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
