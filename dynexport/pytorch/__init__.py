"""All that needs PyTorch, but for the models: checkpoints, the rewrite, export, the original.

Importing this package imports no PyTorch; its modules do.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dynexport.errors import CheckpointError, MissingExtraError
from dynexport.files.kinds import CHECKPOINT, other_kind


def require_convert_extras(checkpoint: str | Path | None = None) -> None:
    """MissingExtraError unless everything the conversion side imports is installed.

    CheckpointError instead for a file of another kind: nothing that is installed helps that.
    """
    for package in ("torch", "onnxscript", "safetensors"):
        if importlib.util.find_spec(package) is None:
            if checkpoint is not None and Path(checkpoint).is_file():
                other = other_kind(Path(checkpoint), CHECKPOINT)
                if other is not None:
                    raise CheckpointError(other)
            raise MissingExtraError(package, "convert")
