"""Multiply-accumulates of a model, counted by running it once on shapes."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynexport.models import SparseModel


@torch.no_grad()
def count_macs(model: SparseModel) -> int:
    """Multiply-accumulates for one image: matrix products and convolutions, as papers count.

    ``model`` is an inference form, or any model whose ``config`` tells its input size. Nothing
    is computed: a copy without data is run.
    """
    shapes = _without_data(model)
    config = model.config
    image = torch.empty(1, config.in_chans, *config.img_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        shapes(image)
    return int(counter.get_total_flops()) // 2


def _without_data(model: SparseModel) -> SparseModel:
    """A copy of the model whose tensors have shapes and no data."""
    tensors = (*model.parameters(), *model.buffers())
    memo = {id(tensor): _empty_like(tensor) for tensor in tensors}
    return copy.deepcopy(model, memo)


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
