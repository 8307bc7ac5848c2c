"""How pictures were prepared in training: what a checkpoint's args tell, and what is assumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from dynexport.errors import InputError
from dynexport.images import ImageSize, Preprocessing
from dynexport.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, WARPED_FROM, is_scale
from dynexport.models import Assumption, Config

REFERENCE = "imagenet_default_mean_and_std"
"""An arg that the reference's training records; false: mean and deviation are 0.5."""


def read_preprocessing(
    args: Mapping[str, Any],
    config: Config,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    crop_pct: float | None = None,
    warp: bool = False,
) -> tuple[Preprocessing, tuple[Assumption, ...]]:
    """From a picture to a model's input, and what of that neither the args told nor the user.

    args  by the names of the public code, of timm and of Hugging Face's libraries
    mean, std, crop_pct, warp  what the user says, as in `Recipe`; InputError where it does not fit
    """
    size, channels = ImageSize.of(config.img_size), config.in_chans
    fit_told = crop_pct is not None or warp
    if not fit_told:
        crop_pct, warp, fit_told = _read_fit(args, size)
    usual = Preprocessing.for_size(size, channels, crop_pct=crop_pct, warp=warp)
    means, stds = (
        _for_all(name, given, channels) if given else _read_scale(args, name, channels)
        for name, given in (("mean", mean), ("std", std))
    )
    steps = dataclasses.replace(usual, mean=means or usual.mean, std=stds or usual.std)
    return steps, tuple(_assumed(steps, means is None, stds is None, not fit_told))


def _assumed(steps: Preprocessing, mean: bool, std: bool, fit: bool) -> Iterator[Assumption]:
    """Of what is assumed, each a sentence."""
    if mean:
        yield Assumption(f"mean of pixels {_listed(steps.mean)}", "mean")
    if std:
        yield Assumption(f"deviation of pixels {_listed(steps.std)}", "std")
    if fit and steps.resize is not None:
        how = "warped to" if steps.warp else f"resized to {steps.resize} and cut to"
        yield Assumption(f"pictures {how} {steps.img_size}", "crop_pct")


def _listed(values: tuple[float, ...]) -> str:
    if len(values) > 1 and len(set(values)) == 1:
        return f"{values[0]:g} each"
    return ", ".join(f"{value:g}" for value in values)


def _for_all(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value for each channel; InputError for another number of them."""
    if len(values) not in (1, channels):
        raise InputError(
            f"`{name}` has {len(values)} values, and the model takes {channels} channels: give "
            "one for each, or one for all"
        )
    return values * channels if len(values) == 1 else values


def _read_scale(args: Mapping[str, Any], name: str, channels: int) -> tuple[float, ...] | None:
    """Mean or deviation of each channel, where the args tell it on the scale from 0 to 1."""
    value = args.get(name)
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if is_scale(name, values) and len(values) in (1, channels):
        return _for_all(name, tuple(map(float, values)), channels)
    if args.get(REFERENCE) is False:
        return (0.5,) * channels
    if args.get(REFERENCE) is True and channels == 3:
        return IMAGENET_MEAN if name == "mean" else IMAGENET_STD
    return None


def _read_fit(args: Mapping[str, Any], size: ImageSize) -> tuple[float | None, bool, bool]:
    """The crop and whether pictures are warped, as the args tell; and whether they tell anything.

    timm calls what is warped squashed. The reference warps large pictures, whatever its crop_pct.
    """
    share, warp = args.get("crop_pct"), args.get("crop_mode") == "squash"
    told = any(name in args for name in (REFERENCE, "crop_pct", "crop_mode"))
    plausible = isinstance(share, (int, float)) and 0 < share <= 1
    if not plausible or (REFERENCE in args and max(size) >= WARPED_FROM):
        share = None
    return share, warp, told
