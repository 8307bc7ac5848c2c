"""Activations of MLPs, and what a configuration says of what is computed between tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynexport.errors import ModelError, unknown_choice


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as CLIP's models were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
}
"""What a configuration's ``activation`` may be."""

DESCRIBED = {
    "gelu": "exact GELU",
    "gelu_tanh": "GELU by tanh",
    "quick_gelu": "QuickGELU",
    "relu": "ReLU",
}


def make_activation(name: str) -> nn.Module:
    """The module of an activation in `ACTIVATIONS`."""
    return ACTIVATIONS[name]()


def require_numerics(config: Any) -> None:
    """ModelError unless a configuration's epsilon and activation can be computed with."""
    eps = config.norm_eps
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
        raise ModelError(
            f"norm epsilon {eps!r} is not valid: give a number above 0, as in `args` norm_eps=1e-6"
        )
    if config.activation not in ACTIVATIONS:
        raise ModelError(
            unknown_choice("activation", str(config.activation), ACTIVATIONS)
            + ", as in `args` activation=gelu"
        )
