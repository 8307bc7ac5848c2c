"""A checkpoint file to its weights, whatever saved it, with nothing in it executed.

`dynexport.pytorch.pickles` reads it, and `dynexport.pytorch.containers` finds the weights in what
it holds. What is of no known family is read as far as it can be named: a dict of tensors, bare or
under one of the usual keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dynexport.errors import CheckpointError
from dynexport.files import existing_file
from dynexport.files.kinds import CHECKPOINT, other_kind
from dynexport.models import families
from dynexport.pytorch.containers import Weights, find_weights, flatten
from dynexport.pytorch.pickles import Inert, is_script, read_pickled, read_script
from dynexport.pytorch.shards import digest_of, find_file, read_settings, read_shards

CONTAINERS = ("model", "model_ema", "state_dict")
"""Keys that hold weights, of whatever model, the preferred first."""

SETTINGS = ("args", "hyper_parameters", "hparams", "config", "cfg")
"""Keys under which trainers record what they were told."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ORDINARY = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""Element types a checkpoint may hold; integers only where the model has them (buffers)."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What wrappers put in front of every name, where no family tells its own."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one checkpoint file.

    state      tensor by name, wrappers' prefixes cut
    args       what was recorded beside the weights, plain values only
    weights    which set of the file was taken, by its place: "model", "a.b", or "bare"
    available  places that hold weights
    heads      words in front of a head's tensors beside the weights, where they are a backbone's
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    args: dict[str, Any]
    weights: str
    available: tuple[str, ...]
    heads: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}


def load_checkpoint(path: str | Path, weights: str | None = None) -> Checkpoint:
    """Read weights from .pth, .pt, .tar, .bin, .safetensors, TorchScript, or a folder of shards.

    ``weights`` picks one of several sets by its place, as "model_ema". Unasked, it is the first
    that is no average of others. CheckpointError says what is wrong.
    """
    path = find_file(Path(path))
    content = _read(existing_file(path, "a checkpoint (.pth, .pt, .tar or .safetensors)"))
    found = find_weights(content, families()) or _find_named(path, content, weights)
    chosen = next((one for one in found if weights in (None, one.place)), None)
    available = tuple(one.place for one in found if one.place != "bare")
    if chosen is None:
        told = ", ".join(available) or "bare weights only"
        raise CheckpointError(f"{path} has no weights under {weights!r}: found {told}")
    _require_finite(path, chosen.state)
    settings = {**read_settings(path), **_settings_in(content)}
    facts = digest_of(path), chosen.state, settings, chosen.place, available, chosen.heads
    return Checkpoint(path, *facts)


def _find_named(path: Path, content: Any, weights: str | None) -> list[Weights]:
    """Dicts of tensors under the usual keys, or bare ones; CheckpointError where there are none."""
    if isinstance(content, Inert):  # a whole model, of a family that is not known
        content = {".".join(place): tensor for place, tensor in flatten(content)}
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds no dict but a {type(content).__name__}: expected weights by name, or "
            f"them under one of {', '.join(CONTAINERS)}"
        )
    places = [key for key in CONTAINERS if isinstance(content.get(key), Mapping)] or ["bare"]
    if weights is not None and weights in places:
        places = [weights]
    found = []
    for place in places:
        state = _strip_prefixes(content if place == "bare" else content[place])
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if not tensors or len(tensors) != len(state):
            others = [name for name in state if name not in tensors]
            raise CheckpointError(
                f"{path} holds no state dict{'' if place == 'bare' else ' under ' + repr(place)}: "
                f"expected tensors by name, found {', '.join(map(repr, others[:5])) or 'nothing'}"
            )
        found.append(Weights(place, tensors))
    return found


def _read(path: Path) -> Any:
    """What a file holds."""
    try:
        if path.name.endswith(".index.json"):
            return read_shards(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        return read_script(path) if is_script(path) else read_pickled(path)
    except CheckpointError:
        raise
    except Exception:  # a damaged pickle can raise anything the unpickler meets
        raise _unreadable(path) from None


def _unreadable(path: Path) -> CheckpointError:
    """The error for a file that holds no weights: of another kind, or damaged."""
    return CheckpointError(
        other_kind(path, CHECKPOINT)
        or f"{path} is not a complete checkpoint: it is cut short, or no PyTorch file; copy it "
        "again"
    )


def _strip_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    names = {str(name): value for name, value in state.items()}
    for prefix in PREFIXES * 2:
        if names and all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _settings_in(content: Any) -> dict[str, Any]:
    """What was recorded beside the weights: numbers, strings and lists of them."""
    for key in SETTINGS:
        values = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(values, Inert):
            values = values.state if isinstance(values.state, Mapping) else values.entries
        if isinstance(values, Mapping) and values:
            return {str(name): value for name, value in values.items() if _is_plain(value)}
    return {}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


REPEATED = 1 << 30
"""Bytes that a tensor may have although its file stores fewer, and repeats them."""


def _require_stored(path: Path, name: str, tensor: Tensor) -> None:
    """CheckpointError for a tensor that only says to be large: to look at it would fill memory."""
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > max(stored, REPEATED):
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {list(tensor.shape)}, and the file stores "
            f"{stored:,} bytes of it: it is damaged; copy it again"
        )


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        plain = tensor.dtype in ORDINARY and tensor.layout == torch.strided and not tensor.is_meta
        if not plain:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {tensor.dtype} ({tensor.layout}, on "
                f"{tensor.device}): expected ordinary dense numbers; save float weights"
            )
        _require_stored(path, name, tensor)
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {len(broken)} tensors, first {broken[0]!r}: "
            "the training diverged or the file is damaged; take an earlier checkpoint"
        )
