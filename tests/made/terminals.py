"""The command line in a process of its own, piped or on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKPOINT = Path(__file__).parents[2] / "examples/mnist/mnist-deit.pth"


Ask = Callable[..., tuple[object, str, str]]


def start(*arguments: object, **settings: str) -> dict[str, object]:
    """What a process of the command line is started with, for `subprocess`; not in the source
    tree, whose folders -m would take for the installed package."""
    free = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    return {
        "args": [sys.executable, "-m", "dynexport", *map(str, arguments)],
        "env": {**free, "TERM": "xterm", **settings},
        "cwd": CHECKPOINT.anchor,
    }


def run_piped(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        **start(*arguments, **settings), capture_output=True, encoding="utf-8", check=False
    )
