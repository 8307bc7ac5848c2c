"""What dynexport requires, by the metadata of its own distribution, and what installs it.

dynexport is on no package index, so no command names it: a command names what is lacking, which
installs it wherever dynexport itself came from, a clone, a wheel or a container's image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "dynexport"

IN_A_CLONE = "pip install '.[{extra}]'"
"""How an extra is had from the sources: as pages say it, and where they run uninstalled."""


@dataclass(frozen=True)
class Need:
    """A requirement, ``name>=floor``: of an extra of dynexport, or of all of it."""

    name: str
    floor: str
    extra: str | None


def read_needs() -> list[Need]:
    """What the installed dynexport requires of other projects.

    importlib.metadata.PackageNotFoundError where it runs from a folder and is not installed.
    """
    return [
        Need(required.name, bound.version, extra)
        for extra in (None, *_extras())
        for required in _required_by(extra)
        if required.name != DISTRIBUTION
        for bound in required.specifier
        if bound.operator == ">="
    ]


def install_command(package: str, extra: str | None) -> str:
    """What installs a package: with all else its extra brings, or, of no extra, alone."""
    from importlib.metadata import PackageNotFoundError  # both are slow, and asked for seldom

    try:
        wanted = [one for one in _required_by(extra) if extra or one.name == package]
    except PackageNotFoundError:
        return (
            f"{IN_A_CLONE.format(extra=extra)}  in a clone of dynexport"
            if extra
            else (f"pip install '{package}'")
        )
    named = dict.fromkeys(
        f"'{one.name}{one.specifier}'" for own in wanted for one in _of_others(own)
    )
    return f"pip install {' '.join(named) or repr(package)}"


def _of_others(required: Requirement) -> list[Requirement]:
    """A requirement as it is; one of dynexport's own extras as what that requires."""
    if required.name != DISTRIBUTION:
        return [required]
    return [one for extra in sorted(required.extras) for one in _required_by(extra)]


def _extras() -> list[str]:
    from importlib.metadata import metadata

    return metadata(DISTRIBUTION).get_all("Provides-Extra") or []


def _required_by(extra: str | None) -> list[Requirement]:
    """What an extra adds on this Python and system; what is always required for None."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    listed = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    always = [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]
    if extra is None:
        return always
    return [
        one
        for one in listed
        if one not in always and one.marker is not None and one.marker.evaluate({"extra": extra})
    ]
