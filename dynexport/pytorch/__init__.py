"""All that needs PyTorch, but for the models: checkpoints, the rewrite, export, the original.

Importing this package imports no PyTorch; its modules do.
"""

from __future__ import annotations

import importlib.util

from dynexport.errors import MissingExtraError


def require_convert_extras() -> None:
    """MissingExtraError unless everything the conversion side imports is installed."""
    for package in ("torch", "onnxscript", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "convert")
