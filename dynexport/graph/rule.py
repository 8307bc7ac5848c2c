"""What a rule is: a pattern in graphs, what `check` says of it and what `optimize` makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

if TYPE_CHECKING:
    from dynexport.graph.view import View

Severity = Literal["refused", "inexact", "slow", "risky"]

SEVERITIES: tuple[Severity, ...] = ("refused", "inexact", "slow", "risky")
"""Worst first.

refused  TensorRT builds no engine of it, or `dynexport build` does not ask it to
inexact  it builds, and answers with less precision than the graph was written for, or otherwise
slow     it builds, and is slower than it need be
risky    the TensorRT it was tried with takes it; other versions refuse it or did it wrong
"""


@dataclass(frozen=True)
class Finding:
    """What a rule says of one node: its name, what is the matter, and what to change."""

    rule: str
    severity: Severity
    node: str
    what: str
    fix: str


@dataclass(frozen=True)
class Rule:
    """A pattern by its name: declared in a file of its own, and listed in `rules.order`.

    what   in one line, what ``apply`` does to it, or what ``find`` tells of
    find   the nodes that TensorRT refuses, rounds or slows down for it
    apply  write it better; returns how often
    """

    name: str
    what: str
    find: Callable[[View], Iterable[Finding]] | None = None
    apply: Callable[[ir.Model], int] | None = None
