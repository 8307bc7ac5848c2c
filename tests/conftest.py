"""Tiny models built in code, and the checkpoints and ONNX files made of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.pipeline import Conversion, convert

TINY = DeiTConfig(
    embed_dim=64,
    num_heads=1,
    depth=4,
    prune_at=(1, 2, 3),
    patch_size=4,
    img_size=28,
    num_classes=10,
)
"""49 tokens, three stages: 0.7 keeps 34, 24, 16."""

ARGS = argparse.Namespace(
    model="deit-tiny", base_rate=0.7, input_size=28, pruning_loc=[1, 2, 3], device="cuda"
)
"""What the public code records beside the weights."""


def random_model(config: Any = TINY, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """A training form whose scores and logits are of order one, so that errors show."""
    torch.manual_seed(seed)
    model = DynamicDeiT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
            elif "norm" in name or "in_conv.0" in name:
                parameter.normal_(float(name.endswith("weight")), 0.1)
            else:
                parameter.normal_(0, scale)
    return model


def save_checkpoint(path: Path, model: nn.Module, **extra: Any) -> Path:
    """As the public code saves it."""
    torch.save({"model": model.state_dict(), "args": ARGS, "epoch": 29, **extra}, path)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    return random_model()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: nn.Module) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth", tiny_model)


@pytest.fixture(scope="session")
def tiny_conversion(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Conversion:
    """The tiny checkpoint at 0.7, dynamic batch 1:3:5; read-only: tests copy what they change."""
    output = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return convert(tiny_checkpoint, ratio=0.7, batch="1:3:5", output=output)
