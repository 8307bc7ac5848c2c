"""Backbones for dense prediction: the map of every stage, normalised, in place of a class.

Detection and segmentation heads read four maps, each through a LayerNorm of its own, ``norm0``
to ``norm3`` in the checkpoints of such backbones. One that was trained to classify has none of
them: its last stage takes the final ``norm``, the others start as a new backbone would, with
scale one and offset zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dynexport.errors import ModelError, unknown_choice
from dynexport.tasks.classify import CLASSIFY
from dynexport.tasks.features import FEATURES

TASKS = (CLASSIFY, FEATURES)
"""What a hierarchical model is for: ``logits``, or ``feat_0`` ... ``feat_3``."""


def require_task(task: str, num_classes: int) -> None:
    """ModelError unless a model with so many classes can do this."""
    names = [one.name for one in TASKS]
    if task not in names:
        raise ModelError(unknown_choice("task", task, names))
    if task == CLASSIFY.name and num_classes < 1:
        raise ModelError(
            "the checkpoint has no classifier (head.weight): it is a backbone, which is exported "
            f"with `task` {FEATURES.name}"
        )


class StageNorms(nn.ModuleList):
    """A LayerNorm for the map of every stage, of these widths."""

    def __init__(self, dims: Sequence[int], eps: float) -> None:
        super().__init__(nn.LayerNorm(dim, eps=eps) for dim in dims)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Maps (B, H, W, C), one a stage -> ``feat_0 ...`` (B, C, H, W), normalised."""
        return {
            f"feat_{stage}": norm(x).permute(0, 3, 1, 2)
            for stage, (norm, x) in enumerate(zip(self, maps, strict=True))
        }


def fit_stage_norms(state: Mapping[str, Tensor], dims: Sequence[int]) -> dict[str, Tensor]:
    """A checkpoint's tensors as those of a model with ``norms`` (`StageNorms`), no classifier."""
    fitted = {
        name: value
        for name, value in state.items()
        if not re.fullmatch(r"(head|norm\d?)\.(weight|bias)", name)
    }
    for stage, dim in enumerate(dims):
        for name, neutral in (("weight", torch.ones(dim)), ("bias", torch.zeros(dim))):
            last = state.get(f"norm.{name}", neutral) if stage == len(dims) - 1 else neutral
            fitted[f"norms.{stage}.{name}"] = state.get(f"norm{stage}.{name}", last)
    return fitted
