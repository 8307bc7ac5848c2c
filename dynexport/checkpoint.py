"""A checkpoint file to weights and the model they belong to, with nothing in it executed.

The public code saves ``{"model": ..., "model_ema": ..., "args": argparse.Namespace, ...}``. Bare
state dicts, ``state_dict`` wrappers, ``module.`` prefixes and .safetensors are read as well.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynexport.errors import CheckpointError, ModelError
from dynexport.files import existing_file, sha256_of
from dynexport.models import FAMILIES, Config, Family, find_variant, variant_name, variants

CONTAINERS = ("model", "model_ema", "state_dict")
"""Keys that hold weights, the preferred first."""

PREFIXES = ("module.", "_orig_mod.")
"""What wrappers (DataParallel, torch.compile) put in front of every name."""


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
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}: expected a state dict, or a dict with one "
            f"under {', '.join(CONTAINERS)}"
        )
    available = tuple(key for key in CONTAINERS if isinstance(content.get(key), Mapping))
    if weights is not None and weights not in available:
        found = ", ".join(available) or "bare weights only"
        raise CheckpointError(f"{path} has no weights under {weights!r}: found {found}")
    chosen = weights or (available[0] if available else "bare")
    state = _strip_prefixes(content if chosen == "bare" else content[chosen])
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) != len(state):
        others = [name for name in state if name not in tensors]
        raise CheckpointError(
            f"{path} holds no state dict under {chosen!r}: expected tensors by name, found "
            f"{', '.join(map(repr, others[:5])) or 'nothing'}"
        )
    _require_finite(path, tensors)
    return Checkpoint(
        path, sha256_of(path), tensors, _plain_args(content.get("args")), chosen, available
    )


def _read_pickle(path: Path) -> Any:
    """A weights-only load: builds tensors and plain containers, never runs what a file says."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "WeightsUnpickler error" in str(error):
            raise CheckpointError(
                f"{path} holds more than weights ({_refused(str(error))}), and loading that could "
                "run code: save it again as torch.save({'model': model.state_dict()}, path)"
            ) from None
        raise _damaged(path) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise _damaged(path) from None
    except Exception:  # a damaged pickle can raise anything the unpickler meets
        raise _damaged(path) from None


def _refused(message: str) -> str:
    """The name a weights-only load stumbled on, from PyTorch's message."""
    _, found, rest = message.partition("GLOBAL ")
    return rest.split()[0] if found else "objects that are no tensors"


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a complete checkpoint: it is cut short, or no PyTorch file; copy it again"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        from dynexport.errors import MissingExtraError

        raise MissingExtraError("safetensors", "convert") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise _damaged(path) from None


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
    plain = (bool, int, float, str, list, tuple)
    return {str(name): value for name, value in values.items() if isinstance(value, plain)}


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {len(broken)} tensors, first {broken[0]!r}: "
            "the training diverged or the file is damaged; take an earlier checkpoint"
        )


def identify(
    checkpoint: Checkpoint,
    model: str | None = None,
    prune_at: tuple[int, ...] | None = None,
    num_heads: int | None = None,
) -> tuple[Family, Config]:
    """The family and configuration of a checkpoint, read off its tensors and args.

    ``model`` names a published variant to take instead of what the tensors suggest, ``prune_at``
    and ``num_heads`` settle what they cannot say. CheckpointError where it stays open.
    """
    args, shapes = checkpoint.args, checkpoint.shapes
    hints = {
        "prune_at": prune_at or args.get("prune_at") or args.get("pruning_loc"),
        "num_heads": num_heads or args.get("num_heads"),
    }
    try:
        if model is not None:
            family, published = find_variant(model)
            hints["num_heads"] = num_heads or published.num_heads
            hints["prune_at"] = prune_at or hints["prune_at"] or published.prune_at
        else:
            family = _family_of(checkpoint)
        config = family.read_config(shapes, hints)
    except ModelError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    if model is not None and variant_name(family, config) != model:
        detected = variant_name(family, config)
        raise CheckpointError(
            f"{checkpoint.path} is no {model}: its tensors are those of "
            f"{detected if detected in variants() else 'a custom ' + detected}; "
            "leave --model out, or choose from " + ", ".join(variants())
        )
    return family, config


def _family_of(checkpoint: Checkpoint) -> Family:
    matching = [family for family in FAMILIES.values() if family.matches(checkpoint.shapes)]
    if len(matching) == 1:
        return matching[0]
    some = ", ".join(list(checkpoint.state)[:3])
    raise CheckpointError(
        f"{checkpoint.path}: {len(checkpoint.state)} tensors ({some} ...) of no known family: "
        f"known are {', '.join(FAMILIES)}; if it is one of them, say which variant with --model "
        f"({', '.join(variants())})"
    )


def build_model(checkpoint: Checkpoint, family: Family, config: Config) -> nn.Module:
    """The training form filled with the checkpoint's weights, strictly; float32, in eval mode.

    CheckpointError names tensors that are missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = family.model(config)
    _require_fit(checkpoint, {n: tuple(t.shape) for n, t in model.state_dict().items()})
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.state.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _require_fit(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
    found = checkpoint.shapes
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} lacks {len(missing)} of {len(expected)} tensors, first "
            f"{missing[0]!r}: it is incomplete, or of another model"
        )
    if unknown:
        raise CheckpointError(
            f"{checkpoint.path} holds {len(unknown)} tensors the model has no place for, first "
            f"{unknown[0]!r}: it is of another model"
        )
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {wrong[0]!r} has shape {list(found[wrong[0]])}, expected "
            f"{list(expected[wrong[0]])}" + (f" ({len(wrong) - 1} more)" if wrong[1:] else "")
        )
