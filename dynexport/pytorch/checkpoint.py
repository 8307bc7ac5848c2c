"""A checkpoint file to its weights, with nothing in it executed.

The public code saves ``{"model": ..., "model_ema": ..., "args": argparse.Namespace, ...}``. Bare
state dicts, ``state_dict`` wrappers, ``module.`` prefixes and .safetensors are read as well.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dynexport.errors import CheckpointError
from dynexport.files import existing_file, sha256_of
from dynexport.files.kinds import CHECKPOINT, other_kind
from dynexport.progress import unheard

CONTAINERS = ("model", "model_ema", "state_dict")
"""Keys that hold weights, the preferred first."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ORDINARY = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""Element types a checkpoint may hold; integers only where the model has them (buffers)."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What wrappers (DataParallel, torch.compile, detectors) put in front of every name."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one checkpoint file.

    state      tensor by name, wrappers' prefixes cut
    args       what was recorded beside the weights, plain values only
    weights    which entry of the file was taken: one of CONTAINERS, or "bare"
    available  entries that hold weights
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    args: dict[str, Any]
    weights: str
    available: tuple[str, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}


def load_checkpoint(path: str | Path, weights: str | None = None) -> Checkpoint:
    """Read weights from .pth, .pt, .tar or .safetensors; CheckpointError says what is wrong.

    ``weights`` picks "model" or "model_ema" where a file holds both; "model" is the default.
    """
    path = existing_file(path, "a checkpoint (.pth, .pt, .tar or .safetensors)")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    content: Any = read(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds no dict but a {type(content).__name__}: expected weights by name, or "
            f"them under one of {', '.join(CONTAINERS)}"
        )
    available = tuple(key for key in CONTAINERS if isinstance(content.get(key), Mapping))
    if weights is not None and weights not in available:
        found = ", ".join(available) or "bare weights only"
        raise CheckpointError(f"{path} has no weights under {weights!r}: found {found}")
    chosen = weights or (available[0] if available else "bare")
    entries: Mapping[str, Any] = content if chosen == "bare" else content[chosen]
    state = _strip_prefixes(entries)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) != len(state):
        others = [name for name in state if name not in tensors]
        raise CheckpointError(
            f"{path} holds no state dict{'' if chosen == 'bare' else ' under ' + repr(chosen)}: "
            f"expected tensors by name, found {', '.join(map(repr, others[:5])) or 'nothing'}"
        )
    _require_finite(path, tensors)
    return Checkpoint(
        path, sha256_of(path), tensors, _plain_args(content.get("args")), chosen, available
    )


def _read_pickle(path: Path) -> Any:
    """A weights-only load: builds tensors and plain containers, never runs what a file says."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), unheard():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything the unpickler meets
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not isinstance(error, pickle.UnpicklingError) or refused is None:
            raise _unreadable(path) from None
        raise CheckpointError(
            f"{path} holds more than weights ({refused.group(1)}), and loading that could run "
            "code: save it again as torch.save({'model': model.state_dict()}, path)"
        ) from None


def _unreadable(path: Path) -> CheckpointError:
    """The error for a file that holds no weights: of another kind, or damaged."""
    return CheckpointError(
        other_kind(path, CHECKPOINT)
        or f"{path} is not a complete checkpoint: it is cut short, or no PyTorch file; copy it "
        "again"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise _unreadable(path) from None


def _strip_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    names = {str(name): value for name, value in state.items()}
    for prefix in PREFIXES * 2:
        if names and all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _plain_args(args: Any) -> dict[str, Any]:
    """What was recorded beside the weights: numbers, strings and lists of them."""
    values = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(values, Mapping):
        return {}
    return {str(name): value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        plain = tensor.dtype in ORDINARY and tensor.layout == torch.strided and not tensor.is_meta
        if not plain:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {tensor.dtype} ({tensor.layout}, on "
                f"{tensor.device}): expected ordinary dense numbers; save float weights"
            )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {len(broken)} tensors, first {broken[0]!r}: "
            "the training diverged or the file is damaged; take an earlier checkpoint"
        )
