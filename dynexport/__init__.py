"""dynexport: deploy dynamically sparse vision models.

    import dynexport
    result = dynexport.convert("ckpt.pth", ratio=0.7)

Importing the package imports no runtime; each function imports what it needs when called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dynexport.errors import DynexportError

if TYPE_CHECKING:
    from dynexport.keep import KeepSchedule
    from dynexport.models import create
    from dynexport.pipeline import bench, convert, inspect_file
    from dynexport.pipeline import verify_model as verify
    from dynexport.rewrite import rewrite

__version__ = "0.1.0"

__all__ = [
    "DynexportError",
    "KeepSchedule",
    "bench",
    "convert",
    "create",
    "inspect_file",
    "rewrite",
    "verify",
]

_HOME = {
    "KeepSchedule": ("dynexport.keep", "KeepSchedule"),
    "bench": ("dynexport.pipeline", "bench"),
    "convert": ("dynexport.pipeline", "convert"),
    "create": ("dynexport.models", "create"),
    "inspect_file": ("dynexport.pipeline", "inspect_file"),
    "rewrite": ("dynexport.rewrite", "rewrite"),
    "verify": ("dynexport.pipeline", "verify_model"),
}


def __getattr__(name: str) -> Any:
    """Public names are found on first use (PEP 562), so that importing costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'dynexport' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
