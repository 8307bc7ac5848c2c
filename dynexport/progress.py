"""How a step that takes a while tells of itself."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str], None]
"""Told the name of each step as it begins, or a warning."""

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def silent(step: str) -> None:
    """An `OnStep` that says nothing."""
