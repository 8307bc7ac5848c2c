"""Weights that do not fit the model they are of."""

from __future__ import annotations

import pytest
import torch
from made.families import TINY, images_for, random_model
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


@pytest.mark.parametrize(
    ("family", "left_out"),
    [
        ("swin", ("attn_mask",)),
        ("swin", ("relative_position_index",)),
        ("swin", ("attn_mask", "relative_position_index")),
        ("lvvit", ("num_batches_tracked",)),
    ],
)
def test_buffers_that_follow_from_the_configuration_may_be_missing(
    family: str, left_out: tuple[str, ...]
) -> None:
    """As timm and Hugging Face save a Swin, and converters a batch norm."""
    model = random_model(family)
    whole = dict(model.state_dict())
    state = {name: value for name, value in whole.items() if not name.endswith(left_out)}
    assert len(state) < len(whole)
    args = {"pruning_loc": [1, 2, 3], "input_size": TINY[family].img_size}
    found = filled(in_hand(state, **args))
    assert all(torch.equal(whole[name], value) for name, value in found.state_dict().items())
    images = images_for(model)
    assert torch.equal(found(images).logits, model(images).logits)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_buffers_that_training_fills_may_not_be_missing(name: str) -> None:
    state = dict(random_model("lvvit").state_dict())
    del state[f"patch_embed.bn2.{name}"]
    with pytest.raises(CheckpointError, match=rf"lacks 1 of .* first 'patch_embed\.bn2\.{name}'"):
        filled(in_hand(state, pruning_loc=[1, 2, 3]))
