"""Tiny training forms of every family, and images for them."""

from __future__ import annotations

from typing import Any

import torch

from dynexport.models import SparseModel, find_family
from dynexport.models.convnext import ConvNeXtConfig
from dynexport.models.deit import DeiTConfig
from dynexport.models.lvvit import LVViTConfig
from dynexport.models.swin import SwinConfig

TINY: dict[str, Any] = {
    "deit": DeiTConfig(64, 1, 4, (1, 2, 3), patch_size=8, img_size=32, num_classes=5),
    "lvvit": LVViTConfig(64, 1, 4, (1, 2, 3), 8, 32, 5, stem_dim=8),
    "swin": SwinConfig(
        16, (2, 2, 4, 2), (1, 2, 2, 4), (1, 2, 3), (4, 4, 4, 2), img_size=64, num_classes=5
    ),
    "convnext": ConvNeXtConfig((8, 16, 24, 32), (1, 1, 4, 1), (1, 2, 3), 64, 5),
}


def random_model(family: str, config: Any = None) -> SparseModel:
    """A training form whose scores and logits are of order one."""
    torch.manual_seed(0)
    model = find_family(family).model(config or TINY[family]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
            else:
                parameter.normal_(float("norm" in name and name.endswith("weight")), 0.2)
    return model


def images_for(model: SparseModel, batch: int = 2) -> torch.Tensor:
    size = model.config.img_size
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
