"""`dynexport --version`: what runs, for the report of a fault."""

from __future__ import annotations

import platform
from contextlib import suppress

from dynexport import __version__
from dynexport.runtimes import libraries


def tell_versions() -> str:
    """dynexport's version, Python's and those of the runtimes that are installed, a line each."""
    import importlib.metadata  # too slow to import for what is not asked

    lines = [
        f"dynexport {__version__}",
        f"Python {platform.python_version()} on {platform.platform()}",
    ]
    runtimes = (name for library in libraries() for name in library.packages)
    for name in ("torch", "onnx", *runtimes):
        with suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name} {importlib.metadata.version(name)}")
    return "\n".join(lines)
