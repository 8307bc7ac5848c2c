"""Folders as Hugging Face's libraries write them: weights in one file or several, and settings.

Sharded weights come with an index, ``*.index.json``, whose ``weight_map`` tells the file of each
tensor. ``config.json`` tells what tensors cannot.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dynexport.errors import CheckpointError
from dynexport.files import sha256_of
from dynexport.files.kinds import is_distributed, weights_in
from dynexport.pytorch.pickles import read_pickled

SETTINGS = {
    "num_attention_heads": "num_heads",
    "num_heads": "num_heads",
    "image_size": "input_size",
    "img_size": "input_size",
    "prune_at": "prune_at",
    "pruning_loc": "pruning_loc",
    "base_rate": "base_rate",
    "layer_norm_eps": "layer_norm_eps",
    "norm_eps": "norm_eps",
    "hidden_act": "hidden_act",
    "activation": "activation",
    "mean": "mean",
    "std": "std",
    "crop_pct": "crop_pct",
    "crop_mode": "crop_mode",
}
"""Fields of a config.json, and what the public code's args, or timm, call them."""


def find_file(path: Path) -> Path:
    """The file to read: of a folder its weights, of a shard the index that lists it."""
    if os.path.isdir(path):
        if is_distributed(path):
            raise CheckpointError(
                f"{path} holds pieces of tensors (.distcp): put them together with  python -m "
                f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} whole.pth  and "
                "give that file"
            )
        return weights_in(path) or path
    for index in path.parent.glob("*.index.json"):
        if path != index and path.is_file() and path.name in _files_in(index).values():
            return index
    return path


def read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of an index; CheckpointError where a file or a tensor is missing."""
    state: dict[str, Tensor] = {}
    files = _files_in(index)
    for name in dict.fromkeys(files.values()):
        file = index.parent / Path(name).name
        if not file.is_file():
            raise CheckpointError(
                f"{index} lists {name!r}, which is not beside it: copy all of its files"
            )
        state |= load_file(file) if file.suffix == ".safetensors" else read_pickled(file)
    missing = [name for name in files if name not in state]
    if missing:
        raise CheckpointError(
            f"{index} lists {missing[0]!r}, which its files do not hold: copy them again"
        )
    return state


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of an index that of all its files, in order."""
    if not path.name.endswith(".index.json"):
        return sha256_of(path)
    files = sorted(set(_files_in(path).values()))
    told = "".join(sha256_of(path.parent / Path(name).name) for name in files)
    return hashlib.sha256(told.encode()).hexdigest()


def read_settings(path: Path) -> dict[str, Any]:
    """What is told beside the weights, by the names of the public code's args.

    By config.json, timm's ``pretrained_cfg`` in it, and preprocessor_config.json.
    """
    if path.suffix not in (".safetensors", ".bin", ".json"):
        return {}
    config = _read_json(path.parent / "config.json")
    inner = config.get("pretrained_cfg")
    told = {**(inner if isinstance(inner, dict) else {}), **config}
    prepared = _read_json(path.parent / "preprocessor_config.json")
    return {
        **{known: told[name] for name, known in SETTINGS.items() if name in told},
        **_read_preprocessor(prepared),
    }


def _read_preprocessor(told: dict[str, Any]) -> dict[str, Any]:
    """What a preprocessor_config.json says, in timm's words.

    ``size`` is what pictures are resized to: a height and a width, or the shortest edge.
    """
    found = {name: told[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in told}
    if "crop_pct" in told:
        return found | {"crop_pct": told["crop_pct"]}
    size, crop = (_sides(told.get(name)) for name in ("size", "crop_size"))
    if size and told.get("do_resize", True):
        cut = crop if told.get("do_center_crop") and crop else size
        stretched = isinstance(told["size"], dict) and "height" in told["size"]
        found["crop_pct"] = min(1.0, cut[0] / size[0])
        found["crop_mode"] = "squash" if stretched else "center"
    return found


def _sides(size: Any) -> tuple[int, ...]:
    """Its numbers, the height first; of none of these forms: none."""
    if isinstance(size, dict):
        size = [size[name] for name in ("height", "width", "shortest_edge") if name in size]
    sides = size if isinstance(size, list) else [size]
    return tuple(side for side in sides if isinstance(side, int) and side > 0)


def _files_in(index: Path) -> dict[str, str]:
    files = _read_json(index).get("weight_map", {})
    return files if isinstance(files, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
