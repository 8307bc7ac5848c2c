"""Weights that do not fit the model they are of."""

from __future__ import annotations

import pytest
import torch
from made.saved import State, filled, in_hand

from dynexport.errors import CheckpointError


def test_a_missing_tensor_is_named(state: State) -> None:
    del state["norm.bias"], state["norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 2 of 86 tensors, first 'norm\.weight'"):
        filled(in_hand(state, pruning_loc=[1, 2, 3]))


def test_an_extra_tensor_is_named(state: State) -> None:
    state["teacher.weight"] = torch.zeros(1)
    problem = r"holds 1 tensors the model has no place for, first 'teacher\.weight'"
    with pytest.raises(CheckpointError, match=problem):
        filled(in_hand(state, pruning_loc=[1, 2, 3]))


@pytest.mark.parametrize(("names", "more"), [(1, r"\[64\]$"), (3, r"\[64\] \(2 more\)$")])
def test_a_tensor_of_another_shape_is_named(state: State, names: int, more: str) -> None:
    for name in ["blocks.3.norm2.bias", "norm.weight", "norm.bias"][:names]:
        state[name] = torch.zeros(3)
    problem = rf"tensor 'blocks\.3\.norm2\.bias' has shape \[3\], expected {more}"
    with pytest.raises(CheckpointError, match=problem):
        filled(in_hand(state, pruning_loc=[1, 2, 3]))


@pytest.mark.parametrize(
    "name", ["head.weight", "blocks.0.mlp.fc1.weight", "blocks.2.attn.proj.bias", "cls_token"]
)
def test_any_tensor_that_is_gone_is_refused(state: State, name: str) -> None:
    del state[name]
    problem = "no known family" if name == "cls_token" else repr(name)
    with pytest.raises(CheckpointError) as error:
        filled(in_hand(state, pruning_loc=[1, 2, 3]))
    assert problem in str(error.value)
