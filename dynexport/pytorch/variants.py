"""The published variants: how large they are, what they compute, how right they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dynexport.models import load_plugins, variants
from dynexport.progress import OnStep, silent
from dynexport.pytorch.macs import count_macs
from dynexport.pytorch.rewrite import oracle, rewrite
from dynexport.schedule import schedule_from_base

LISTED_RATIOS = (0.9, 0.7, 0.5)


def list_models(
    on_step: OnStep = silent, *, plugins: Sequence[str | Path] = ()
) -> list[dict[str, Any]]:
    """Every published variant: family, parameters, multiply-accumulates, accuracy.

    ``macs`` maps a keep ratio to multiply-accumulates for one image; 1.0 is the plain backbone.
    ``published_top1`` is ImageNet top-1 at ratio 0.7, per cent; None where none is known.
    ``plugins`` are files of further families.
    """
    load_plugins(plugins)
    rows = []
    for name, (family, config) in variants().items():
        on_step(f"count {name}")
        with torch.device("meta"):
            model = family.model(config)
            stages = len(config.prune_at)
            schedules = {r: schedule_from_base(family.schedule, r, stages) for r in LISTED_RATIOS}
            macs = {1.0: count_macs(oracle(model, None))}
            macs |= {r: count_macs(rewrite(model, keep)) for r, keep in schedules.items()}
        rows.append(
            {
                "model": name,
                "family": family.name,
                "img_size": str(config.img_size),
                "prune_at": list(config.prune_at),
                "parameters": sum(p.numel() for p in model.parameters()),
                "macs": macs,
                "published_top1": family.published_top1.get(name),
            }
        )
    return rows
