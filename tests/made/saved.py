"""State dicts in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynexport.pytorch.checkpoint import Checkpoint
from dynexport.pytorch.identify import build_model, identify

State = dict[str, Tensor]


def in_hand(state: State, **args: Any) -> Checkpoint:
    """A checkpoint as if it had been read from a file."""
    return Checkpoint(Path("x.pth"), "0" * 64, state, args, "model", ("model",))


def filled(checkpoint: Checkpoint, **hints: Any) -> nn.Module:
    return build_model(checkpoint, *identify(checkpoint, **hints))
