"""Which model a checkpoint is of, read off its tensors, and that model filled with them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dynexport.errors import CheckpointError, InputError, ModelError
from dynexport.images import ImageSize
from dynexport.models import (
    Assumption,
    Config,
    Family,
    Shapes,
    SparseModel,
    families,
    find_variant,
    variant_name,
    variants,
)
from dynexport.pytorch.checkpoint import Checkpoint


def identify(
    checkpoint: Checkpoint,
    model: str | None = None,
    prune_at: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    img_size: int | str | Sequence[int] | None = None,
    task: str | None = None,
) -> tuple[Family, Config]:
    """The family and configuration of a checkpoint, read off its tensors and args.

    ``model`` names a published variant to take instead of what the tensors suggest, ``prune_at``
    and ``num_heads`` settle what they cannot say, ``img_size`` asks for another image size than
    it was trained at, ``task`` for another output than logits. CheckpointError where it stays open.
    """
    shapes = checkpoint.shapes
    hints = _hints_of(checkpoint, prune_at, num_heads)
    asked = None if img_size is None else ImageSize.of(img_size)
    hints |= {"img_size": asked or hints["trained_size"], "task": task}
    try:
        family = _family_of(checkpoint) if model is None else find_variant(model)[0]
        offered = [one.name for one in family.tasks]
        if task is not None and task not in offered:
            raise InputError(
                f"{checkpoint.path}: {family.name} models cannot be exported for the task "
                f"{task!r}: choose from {', '.join(offered)}"
            )
        if model is not None:
            published = find_variant(model)[1]
            if num_heads is None:
                hints["num_heads"] = getattr(published, "num_heads", None)
            hints["prune_at"] = hints["prune_at"] or published.prune_at
        hints |= family.read_values(checkpoint.state)
        config = family.read_config(shapes, hints)
        if model is not None and variant_name(family, config) != model:
            raise ModelError(f"its tensors are not those of {model}")
        if asked is not None:
            config = dataclasses.replace(config, img_size=asked)
    except ModelError as error:
        if model in variants():
            raise _no_such(checkpoint, str(model), error) from None
        raise CheckpointError(f"{checkpoint.path}: {error}{_heads_of(checkpoint, task)}") from None
    return family, config


def find_assumptions(
    checkpoint: Checkpoint,
    family: Family,
    config: Config,
    model: str | None = None,
    prune_at: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    img_size: int | str | Sequence[int] | None = None,
) -> tuple[Assumption, ...]:
    """What of a configuration neither the checkpoint told nor the user, as `identify` was asked.

    Whoever names a published ``model`` has told all that is published of it.
    """
    hints = {**_hints_of(checkpoint, prune_at, num_heads), "img_size": img_size}
    if model is not None:
        published: Any = find_variant(model)[1]
        for name in TOLD_BY_NAME:
            if hints.get(name) is None:
                hints[name] = getattr(published, name, None)
    return tuple(family.assumptions(config, hints))


TOLD_BY_NAME = (
    *("prune_at", "num_heads", "img_size", "norm_eps", "activation", "skip_lam", "global_pool"),
)
"""What the name of a published variant tells of it, beside what tensors do."""


PRUNE_AT = ("prune_at", "pruning_loc", "reduction_loc", "drop_loc")
"""What training code calls the pruning locations."""


def _hints_of(
    checkpoint: Checkpoint, prune_at: tuple[int, ...] | None, num_heads: int | None
) -> dict[str, Any]:
    """What the checkpoint's args tell, and what the user did."""
    args = checkpoint.args
    told = (_blocks(args[name]) for name in PRUNE_AT if name in args)
    return {
        **args,
        "prune_at": prune_at or next((blocks for blocks in told if blocks), None),
        "num_heads": _whole(args.get("num_heads")) if num_heads is None else num_heads,
        "trained_size": _size(args.get("input_size")),
    }


def _heads_of(checkpoint: Checkpoint, task: str | None) -> str:
    """Where the head of a backbone stands, for whoever did not ask for what it reads."""
    if not checkpoint.heads or task is not None:
        return ""
    places = " and ".join(f"{word}." for word in checkpoint.heads)
    return (
        f"; the head stands in the same file, under {places}, and is not converted: give `task` "
        "features for the maps that it reads"
    )


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


def _size(value: Any) -> ImageSize | None:
    """What was recorded, if it is an image size: of timm's (C, H, W), the last two."""
    if isinstance(value, (list, tuple)) and len(value) == 3:
        value = value[1:]
    try:
        return ImageSize.of(value)
    except InputError:
        return None


LIST = re.compile(r"\s*[\[(]?((?:\s*\d+\s*,)*\s*\d+)\s*,?\s*[\])]?\s*")
"""Whole numbers as text: EViT records its drop_loc as it stood on the command line, "(3, 6, 9)"."""


def _blocks(value: Any) -> tuple[int, ...] | None:
    """What was recorded, if it is a whole number or a list of them."""
    if isinstance(value, str) and (listed := LIST.fullmatch(value)):
        value = [int(number) for number in listed[1].split(",")]
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

    Buffers that a new model computes may be missing. CheckpointError names tensors that are
    missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = family.model(config)
    resized = {**family.fit(checkpoint.state, config)}
    lacking = [name for name in _computed(model) if name not in resized]
    if lacking:
        fresh = family.model(config).state_dict()
        resized |= {name: fresh[name] for name in lacking}
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


def _computed(model: SparseModel) -> list[str]:
    """The buffers that follow from the configuration, which savers may leave out.

    Not those that training fills: a batch norm's mean and variance.
    """
    buffers = dict(model.named_buffers()).keys() & model.state_dict().keys()
    return [name for name in buffers if not name.endswith((".running_mean", ".running_var"))]


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
