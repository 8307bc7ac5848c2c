"""Optional dependencies: one sentence that names the pip command, instead of an ImportError."""

from __future__ import annotations

import importlib.util

from dynexport.errors import MissingExtraError


def require_convert_extras() -> None:
    """MissingExtraError unless everything the conversion side imports is installed."""
    for package in ("torch", "onnxscript", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "convert")
