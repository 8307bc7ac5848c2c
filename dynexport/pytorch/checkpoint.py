"""A checkpoint file to weights and the model they belong to, with nothing in it executed.

The public code saves ``{"model": ..., "model_ema": ..., "args": argparse.Namespace, ...}``. Bare
state dicts, ``state_dict`` wrappers, ``module.`` prefixes and .safetensors are read as well.
"""

from __future__ import annotations

import argparse
import dataclasses
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

from dynexport.errors import CheckpointError, InputError, ModelError
from dynexport.files import existing_file, sha256_of
from dynexport.models import (
    Config,
    Family,
    Shapes,
    SparseModel,
    families,
    find_variant,
    variant_name,
    variants,
)
from dynexport.progress import unheard

CONTAINERS = ("model", "model_ema", "state_dict")
"""Keys that hold weights, the preferred first."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ORDINARY = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""Element types a checkpoint may hold; integers only where the model has them (buffers)."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What wrappers (DataParallel, torch.compile, detectors) put in front of every name."""

ONNX_FILE = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
"""How an ONNX file begins: its version, a small number, and another of a ModelProto's fields."""

ARRAYS_FILE = re.compile(rb"PK\x03\x04.{26}[^\0]*?\.npy", re.DOTALL)
"""How an .npz begins: a zip whose first entry is an array."""


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
    with path.open("rb") as stream:
        head = stream.read(1024)
    if ONNX_FILE.match(head):
        return CheckpointError(
            f"{path} is an ONNX file, not a checkpoint: give the checkpoint it was made from; "
            "dynexport optimize takes ONNX files"
        )
    if ARRAYS_FILE.match(head):
        return CheckpointError(
            f"{path} is an .npz of arrays, not a checkpoint: give a .pth, .pt, .tar or .safetensors"
        )
    return CheckpointError(
        f"{path} is not a complete checkpoint: it is cut short, or no PyTorch file; copy it again"
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


def identify(
    checkpoint: Checkpoint,
    model: str | None = None,
    prune_at: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    img_size: int | None = None,
    task: str | None = None,
) -> tuple[Family, Config]:
    """The family and configuration of a checkpoint, read off its tensors and args.

    ``model`` names a published variant to take instead of what the tensors suggest, ``prune_at``
    and ``num_heads`` settle what they cannot say, ``img_size`` asks for another image size than
    it was trained at, ``task`` for maps of features in place of a class. CheckpointError where it
    stays open.
    """
    args, shapes = checkpoint.args, checkpoint.shapes
    hints = {
        **args,
        "prune_at": prune_at or _blocks(args.get("prune_at")) or _blocks(args.get("pruning_loc")),
        "num_heads": _whole(args.get("num_heads")) if num_heads is None else num_heads,
        "img_size": img_size or _whole(args.get("input_size")),
        "task": task,
    }
    try:
        family = _family_of(checkpoint) if model is None else find_variant(model)[0]
        if task is not None and task not in family.tasks:
            raise InputError(
                f"{checkpoint.path}: {family.name} models cannot be exported for the task "
                f"{task!r}: choose from {', '.join(family.tasks)}"
            )
        if model is not None:
            published = find_variant(model)[1]
            if num_heads is None:
                hints["num_heads"] = getattr(published, "num_heads", None)
            hints["prune_at"] = hints["prune_at"] or published.prune_at
        config = family.read_config(shapes, hints)
        if model is not None and variant_name(family, config) != model:
            raise ModelError(f"its tensors are not those of {model}")
        if img_size is not None:
            config = dataclasses.replace(config, img_size=img_size)
    except ModelError as error:
        if model in variants():
            raise _no_such(checkpoint, str(model), error) from None
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    if config.in_chans != 3:
        raise CheckpointError(
            f"{checkpoint.path}: the model takes {config.in_chans} channels: pictures have 3"
        )
    return family, config


def _no_such(checkpoint: Checkpoint, model: str, error: ModelError) -> CheckpointError:
    """The error for a checkpoint that is not of the variant the user named; ``error`` itself
    where the variant is not the trouble."""
    try:
        detected = variant_name(*identify(checkpoint))
        found = detected if detected in variants() else f"a custom {detected}"
        advice = "leave `model` out"
    except CheckpointError as without_it:
        if str(without_it) == f"{checkpoint.path}: {error}":
            return without_it
        found, advice = "another model", "leave `model` out to see what is found"
    return CheckpointError(
        f"{checkpoint.path} is no {model}: its tensors are those of {found}; {advice}, or choose "
        f"from {', '.join(variants())}"
    )


def _whole(value: Any) -> int | None:
    """What was recorded, if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _blocks(value: Any) -> tuple[int, ...] | None:
    """What was recorded, if it is a whole number or a list of them."""
    numbers = [
        _whole(number) for number in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return tuple(n for n in numbers if n is not None) if None not in numbers else None


def _family_of(checkpoint: Checkpoint) -> Family:
    matching = [family for family in families().values() if family.matches(checkpoint.shapes)]
    if matching:
        return matching[-1]  # a plugin's comes after the built-in ones, and was asked for
    some = ", ".join(list(checkpoint.state)[:3])
    raise CheckpointError(
        f"{checkpoint.path}: {len(checkpoint.state)} tensors ({some} ...) of no known family: "
        f"known are {', '.join(families())}; if it is one of them, say which variant with `model` "
        f"({', '.join(variants())}); a family of your own is given with `plugins`"
    )


def build_model(checkpoint: Checkpoint, family: Family, config: Config) -> SparseModel:
    """The training form filled with the checkpoint's weights, strictly; float32, in eval mode.

    CheckpointError names tensors that are missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = family.model(config)
    resized = family.fit(checkpoint.state, config)
    _require_fit(
        checkpoint.path,
        {name: tuple(tensor.shape) for name, tensor in resized.items()},
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
    )
    expected = model.state_dict()
    state = {}
    for name, tensor in resized.items():
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name!r} is {tensor.dtype}, expected floating point: "
                "quantised weights cannot be converted; take the checkpoint before quantisation"
            )
        state[name] = tensor.to(expected[name].dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _require_fit(path: Path, found: Shapes, expected: Shapes) -> None:
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of {len(expected)} tensors, first "
            f"{missing[0]!r}: it is incomplete, or of another model"
        )
    if unknown:
        raise CheckpointError(
            f"{path} holds {len(unknown)} tensors the model has no place for, first "
            f"{unknown[0]!r}: it is of another model"
        )
    if wrong:
        raise CheckpointError(
            f"{path}: tensor {wrong[0]!r} has shape {list(found[wrong[0]])}, expected "
            f"{list(expected[wrong[0]])}" + (f" ({len(wrong) - 1} more)" if wrong[1:] else "")
        )
