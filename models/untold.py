"""What no tensor tells: what it was taken to be, and what else it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Assumption:
    """What was taken to be so, as nothing in a checkpoint tells it.

    parameter, value  what says otherwise: a setting of the conversion, and an example for it
    """

    what: str
    parameter: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.what} (else `{self.parameter}`{' ' * bool(self.value)}{self.value})"


@dataclass(frozen=True)
class Alternative:
    """Another reading of what no tensor tells, tried where answers are not those expected.

    said     the setting of the conversion that says so, as in "`num_heads` 8"
    changes  the fields of a configuration that it changes
    """

    said: str
    changes: Mapping[str, Any]
