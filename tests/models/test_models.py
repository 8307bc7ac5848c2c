"""The training form: masks, straight-through gradients, registry."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynexport.errors import ModelError
from dynexport.models import create, families, find_family, find_variant, variants
from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.models.layers import DropPath, masked_softmax


def images_for(config: DeiTConfig, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, config.in_chans, *config.img_size)


def test_training_masks_only_ever_shrink(tiny_model: nn.Module) -> None:
    model = tiny_model.train()
    try:
        torch.manual_seed(1)
        masks = model(images_for(model.config, 4)).tokens.masks
    finally:
        model.eval()
    assert len(masks) == 3
    for mask in masks:
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
    for earlier, later in itertools.pairwise(masks):
        assert (later <= earlier).all()
    assert 0 < masks[-1].sum() < masks[0].numel()


def test_the_class_token_is_never_masked(tiny_model: nn.Module) -> None:
    model = tiny_model.train()
    try:
        assert (model(images_for(model.config)).tokens.mask[:, 0] == 1).all()
    finally:
        model.eval()


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    config = DeiTConfig(32, 2, 4, (1, 2, 3), patch_size=7, img_size=28, num_classes=5)
    model = DynamicDeiT(config, drop_path=0.1).train()
    output = model(images_for(config, 3))
    shares = sum(mask.mean() for mask in output.tokens.masks)
    (output.logits.square().mean() + output.features.square().mean() + shares).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_eval_mode_is_deterministic(tiny_model: nn.Module) -> None:
    images = images_for(tiny_model.config)
    assert torch.equal(tiny_model(images).logits, tiny_model(images).logits)


def test_masked_softmax_matches_the_papers_formula() -> None:
    torch.manual_seed(0)
    scores, mask = torch.randn(1, 1, 4, 4), torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    weights = masked_softmax(scores, mask, eps=0.0)[0, 0]
    for i in range(4):
        visible = [j for j in range(4) if mask[0, j] == 1 or j == i]
        exponentials = {j: torch.exp(scores[0, 0, i, j]) for j in visible}
        for j in range(4):
            expected = exponentials[j] / sum(exponentials.values()) if j in visible else 0.0
            assert weights[i, j] == pytest.approx(float(expected), abs=1e-6)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 3)
    dropped = DropPath(0.25).train()(branch)
    assert set(dropped.sum(dim=1).unique().tolist()) == {0.0, 4.0}
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(branch), branch)


def test_every_variant_is_created_with_its_published_shape() -> None:
    for name, (family, config) in variants().items():
        with torch.device("meta"):
            model = create(name, num_classes=7)
        assert isinstance(model, nn.Module)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert family.matches(shapes)
        assert family.read_config(shapes, {}) == dataclasses.replace(config, num_classes=7)


def test_families_tell_their_tensors_apart() -> None:
    for name in variants():
        with torch.device("meta"):
            state = create(name).state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        matching = [family.name for family in families().values() if family.matches(shapes)]
        assert matching == [find_variant(name)[0].name]


def test_unknown_variant_and_setting_are_named() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'deit-z'.*deit-256, deit-s, deit-b"):
        create("deit-z")
    with pytest.raises(ModelError, match=r"unknown setting of deit-s 'classes'.*did you mean"):
        create("deit-s", classes=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, r"64 channels do not divide into 5 heads"),
        ({"patch_size": 5}, r"image size 28 is no multiple of the patch size 5"),
        ({"prune_at": (2, 1, 3)}, r"pruning locations \[2, 1, 3\] are not valid for 4 blocks"),
        ({"prune_at": (1, 2, 4)}, r"increasing block numbers from 0 to 3"),
        ({"num_classes": 0}, r"at least 1"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    config = DeiTConfig(64, 1, 4, (1, 2, 3), patch_size=4, img_size=28)
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(config, **change)


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 3),
    head_dim=st.integers(2, 9),
    depth=st.integers(1, 4),
    patch=st.integers(1, 4),
    grid=st.integers(1, 5),
    classes=st.integers(1, 6),
    data=st.data(),
)
def test_any_shape_of_model_runs_and_reads_itself_back(
    heads: int, head_dim: int, depth: int, patch: int, grid: int, classes: int, data: st.DataObject
) -> None:
    stages = data.draw(st.sets(st.integers(0, depth - 1), min_size=1))
    config = DeiTConfig(
        heads * head_dim, heads, depth, tuple(sorted(stages)), patch, patch * grid, classes
    )
    model = DynamicDeiT(config).eval()
    assert model(images_for(config, 1)).logits.shape == (1, classes)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    hints = {"num_heads": heads, "prune_at": config.prune_at}
    assert find_family("deit").read_config(shapes, hints) == config
