"""Tensors of a tiny DeiT, and how they are saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made.saved import State
from torch import nn


@pytest.fixture
def state(tiny_model: nn.Module) -> State:
    """A copy of the tiny model's tensors, which a test may change."""
    return {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any, name: str = "x.pth", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write
