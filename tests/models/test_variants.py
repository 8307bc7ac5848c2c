"""What models may have beside the published ones, or lack: each compared with a plain forward."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made.saved import State, filled, in_hand
from made.tiny import build
from made.variants import VISION_TRANSFORMERS, WHOLE_LINE
from torch import Tensor

from dynexport.errors import CheckpointError, ModelError
from dynexport.models import SparseModel
from dynexport.models.deit import DeiTConfig
from dynexport.pytorch.identify import build_model, find_assumptions, identify
from dynexport.pytorch.rewrite import prove, rewrite
from dynexport.schedule import KeepSchedule, Selection

KEEP = KeepSchedule((0.7, 0.5, 0.3))


def images(count: int = 3, size: int = 28) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def checkpoint_of(model: SparseModel, **args: Any) -> Any:
    config = model.config
    recorded = {"pruning_loc": [1, 2, 3], "num_heads": getattr(config, "num_heads", None)}
    return in_hand(dict(model.state_dict()), **recorded, **args)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """A LayerNorm where the state has one of the name."""
    if f"{name}.weight" not in state:
        return x
    weight = state[f"{name}.weight"]
    return F.layer_norm(x, weight.shape, weight, state[f"{name}.bias"], 1e-6)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def plain_forward(
    state: State, config: DeiTConfig, pictures: Tensor, kept: tuple[Tensor, ...] = ()
) -> Tensor:
    """A vision transformer as timm computes it, each image alone, tokens taken by plain indexing.

    kept: per stage the positions of the grid that go on, (B, K)
    """
    logits = []
    for number, picture in enumerate(pictures):
        x = F.conv2d(
            picture[None],
            state["patch_embed.proj.weight"],
            state["patch_embed.proj.bias"],
            stride=config.patch_size,
        )
        x = x.flatten(2).transpose(1, 2)[0]
        first = [state[n][0] for n in ("cls_token", "dist_token", "reg_token") if n in state]
        x = torch.cat([*first, x])
        lead = sum(len(tokens) for tokens in first)
        placed = lead - config.unplaced
        x[:placed] += state["pos_embed"][0, :placed]
        x[lead:] += state["pos_embed"][0, placed:]
        left = list(range(len(x) - lead))
        for index in range(config.depth):
            if index in config.prune_at and kept:
                chosen = kept[config.prune_at.index(index)][number].tolist()
                x = torch.cat([x[:lead], torch.stack([x[lead + left.index(p)] for p in chosen])])
                left = chosen
            x = plain_block(state, f"blocks.{index}", x, config.num_heads)
        logits.append(plain_readout(state, config, x, lead))
    return torch.stack(logits)


def plain_block(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = (
        part.unflatten(1, (heads, -1)).transpose(0, 1)
        for part in linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1", x)).chunk(3, 1)
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
    x = x + state.get(f"{name}.ls1.gamma", 1.0) * linear(state, f"{name}.attn.proj", mixed)
    hidden = F.gelu(linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", x)))
    return x + state.get(f"{name}.ls2.gamma", 1.0) * linear(state, f"{name}.mlp.fc2", hidden)


def plain_readout(state: State, config: DeiTConfig, x: Tensor, lead: int) -> Tensor:
    x = norm(state, "norm", x)
    mean = x[lead:].mean(0)
    read = {"token": x[0], "avg": mean, "token+avg": torch.cat([x[0], mean])}[config.global_pool]
    read = norm(state, "fc_norm", read)
    if "pre_logits.fc.weight" in state:
        read = linear(state, "pre_logits.fc", read).tanh()
    logits = linear(state, "head", read)
    if "head_dist.weight" in state:
        logits = (logits + linear(state, "head_dist", x[1])) / 2
    return logits


@pytest.fixture(params=VISION_TRANSFORMERS)
def model(request: pytest.FixtureRequest) -> SparseModel:
    return build("deit", 0, **VISION_TRANSFORMERS[request.param])


@torch.inference_mode()
def test_a_vision_transformer_is_the_plain_one_dense_and_with_tokens_gone(
    model: SparseModel,
) -> None:
    state, config = dict(model.state_dict()), model.config
    dense = rewrite(model, None)(images()).logits
    assert torch.allclose(dense, plain_forward(state, config, images()), atol=2e-5)
    sparse = rewrite(model, KEEP)(images())
    expected = plain_forward(state, config, images(), sparse.tokens.kept)
    assert torch.allclose(sparse.logits, expected, atol=2e-5)
    assert not torch.allclose(sparse.logits, dense, atol=1e-3)
    assert expected.std() > 0.1


def test_a_vision_transformer_is_read_off_its_tensors(model: SparseModel) -> None:
    checkpoint = checkpoint_of(model, global_pool=model.config.global_pool)
    assert identify(checkpoint)[1] == model.config
    found = filled(checkpoint)
    with torch.inference_mode():
        ours, theirs = (rewrite(form, KEEP)(images()).logits for form in (found, model))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("ratios", [(0.7, 0.5, 0.3), (1.0, 1.0, 1.0), (0.5, 0.1, 0.03)])
def test_a_vision_transformer_is_proved(model: SparseModel, ratios: tuple[float, ...]) -> None:
    """Down to one patch beside the leading tokens."""
    keep = KeepSchedule(ratios)
    proof = prove(model, rewrite(model, keep), keep, images())
    assert proof.max_abs_error < 2e-5 * max(1.0, proof.scale)
    assert max(proof.selection_gap) < 1e-4


def test_training_reaches_every_parameter_and_masks_no_leading_token(model: SparseModel) -> None:
    model = model.train()
    output = model(images())
    lead = model.config.leading
    assert model.selection == Selection(nested=True, leading=lead)
    assert output.tokens.mask is not None
    assert (output.tokens.mask[:, :lead] == 1).all()
    assert output.features is not None
    assert output.features.shape == (3, model.config.num_tokens, model.config.embed_dim)
    shares = torch.stack([mask.mean() for mask in output.tokens.masks]).sum()
    (output.logits.square().mean() + output.features.square().mean() + shares).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["lvvit", "swin", "convnext"])
def test_what_other_families_lack_is_read_and_proved(name: str) -> None:
    family, changes = WHOLE_LINE[name]
    trained = build(family, 0, **changes)
    checkpoint = checkpoint_of(trained, input_size=list(trained.config.img_size))
    assert identify(checkpoint)[1] == trained.config
    found = filled(checkpoint)
    size = trained.config.img_size.height
    for keep in (KEEP, None):
        proof = prove(found, rewrite(found, keep), keep, images(size=size))
        assert proof.max_abs_error < 2e-5 * max(1.0, proof.scale)


@torch.inference_mode()
def test_an_lvvit_without_the_auxiliary_head_reads_the_class_token() -> None:
    whole, without = build("lvvit", 0), build("lvvit", 0, aux_head=False)
    state = {n: t for n, t in whole.state_dict().items() if not n.startswith("aux_head")}
    without.load_state_dict(state)
    whole.aux_head.weight.zero_()
    whole.aux_head.bias.zero_()
    for keep in (None, KEEP):
        ours, theirs = (rewrite(form, keep)(images()).logits for form in (without, whole))
        assert torch.allclose(ours, theirs, atol=1e-6)


@torch.inference_mode()
def test_a_convnext_without_layer_scale_is_one_whose_scales_are_one() -> None:
    scaled, without = build("convnext", 0), build("convnext", 0, layer_scale=False)
    for name, parameter in scaled.named_parameters():
        if "gamma" in name:
            parameter.fill_(1.0)
    state = {n: t for n, t in scaled.state_dict().items() if "gamma" not in n}
    without.load_state_dict(state)
    pictures = images(size=32)
    for keep in (None, KEEP):
        ours, theirs = (rewrite(form, keep)(pictures).logits for form in (without, scaled))
        assert torch.allclose(ours, theirs, atol=1e-6)


@torch.inference_mode()
def test_a_swins_absolute_positions_and_missing_norm_are_in_its_first_map() -> None:
    plain, model = build("swin", 0), build("swin", 0, absolute_positions=True, patch_norm=False)
    pictures, seen = images(size=32), []
    model.layers[0].blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(pictures)
    projected = model.patch_embed.proj(pictures).flatten(2).transpose(1, 2)
    assert torch.allclose(seen[0], projected + model.absolute_pos_embed, atol=1e-6)
    assert not hasattr(plain, "absolute_pos_embed")


@torch.inference_mode()
def test_a_detectors_absolute_positions_are_a_map_and_follow_the_image_size() -> None:
    """(1, C, H, W), interpolated; so are a classifier's, (1, N, C), where another size is asked."""
    model = build("swin", 0, absolute_positions=True)
    state = dict(model.state_dict())
    rows = state["absolute_pos_embed"]
    grid = rows.transpose(1, 2).unflatten(2, (32, 32))
    as_map = {**state, "absolute_pos_embed": grid}
    found = filled(in_hand(as_map, pruning_loc=[1, 2, 3]))
    assert found.config == model.config
    assert torch.equal(found.absolute_pos_embed, rows)
    wanted = F.interpolate(grid, size=(48, 64), mode="bicubic", align_corners=False)
    for tensors in (as_map, state):
        resized = filled(in_hand(tensors, pruning_loc=[1, 2, 3]), img_size=(48, 64))
        assert resized.config.img_size == (48, 64)
        assert torch.equal(resized.absolute_pos_embed, wanted.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", ["distilled", "registers", "registers without a place"])
def test_positions_of_leading_tokens_stay_where_the_grid_is_resized(name: str) -> None:
    model = build("deit", 0, **VISION_TRANSFORMERS[name])
    placed = model.config.leading - model.config.unplaced
    old = model.pos_embed
    new = filled(checkpoint_of(model), img_size=(32, 48)).pos_embed
    assert new.shape == (1, placed + 8 * 12, 32)
    assert torch.equal(new[:, :placed], old[:, :placed])
    grid = old[:, placed:].transpose(1, 2).unflatten(2, (7, 7))
    wanted = F.interpolate(grid, size=(8, 12), mode="bicubic", align_corners=False)
    assert torch.equal(new[:, placed:], wanted.flatten(2).transpose(1, 2))


@torch.inference_mode()
def test_other_names_of_the_same_tensors_are_known() -> None:
    """DINOv2's registers and DeiT III's layer scale; a token for hidden patches is passed over."""
    model = build("deit", 0, registers=4, unplaced=4, layer_scale=True)
    renamed = {
        re.sub(r"\.ls(\d)\.gamma", r".gamma_\1", n).replace("reg_token", "register_tokens"): t
        for n, t in model.state_dict().items()
    }
    assert "register_tokens" in renamed
    assert "blocks.0.gamma_1" in renamed
    renamed["mask_token"] = torch.zeros(1, 32)
    found = filled(in_hand(renamed, pruning_loc=[1, 2, 3], num_heads=2))
    assert found.config == model.config
    assert torch.equal(found(images()).logits, model(images()).logits)


def assumed(model: SparseModel, **args: Any) -> list[str]:
    told = {"input_size": 28, "norm_eps": 1e-6, "activation": "gelu", **args}
    checkpoint = checkpoint_of(model, **told)
    return [str(one) for one in find_assumptions(checkpoint, *identify(checkpoint))]


READS_TOKEN = "the head reads the class token (else `args` global_pool=avg)"
READS_MEAN = "the head reads the mean of the patches (else `args` global_pool=token)"


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("plain", {}, [READS_TOKEN]),
        ("plain", {"global_pool": "token"}, []),
        ("plain", {"global_pool": False}, []),
        ("registers", {}, [READS_TOKEN]),
        ("mean, normed behind", {}, [READS_MEAN]),
        ("mean, normed behind", {"gp": "avg"}, []),
        ("distilled", {}, []),
        ("class token and mean", {}, []),
        ("mean, no class token", {}, []),
        (
            "nothing but patches has a place",
            {"input_size": None, "global_pool": "token"},
            [
                "images of 28 pixels (else `img_size`)",
                "4 leading tokens without a position embedding (else `img_size`)",
            ],
        ),
    ],
)
def test_what_tensors_do_not_tell_of_a_readout_is_said(
    name: str, args: dict[str, Any], expected: list[str]
) -> None:
    assert assumed(build("deit", 0, **VISION_TRANSFORMERS[name]), **args) == expected


@pytest.mark.parametrize(("told", "pooling"), [("avg", "avg"), (True, "avg"), (False, "token")])
def test_a_pooling_that_was_recorded_is_taken(told: Any, pooling: str) -> None:
    """timm's word for it, and the flag of MAE's code."""
    checkpoint = checkpoint_of(build("deit", 0), global_pool=told)
    assert identify(checkpoint)[1].global_pool == pooling


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"global_pool": "max"}, "unknown global_pool 'max': .*choose from token, avg, token.avg"),
        ({"class_token": False}, "global_pool 'token' reads a class token, and the model has none"),
        ({"head_dist": True}, "a second head, 'head_dist', reads a distillation token behind"),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        DeiTConfig(32, 2, **changes)


def test_a_second_head_without_its_token_is_refused() -> None:
    state = dict(build("deit", 0).state_dict())
    state |= {"head_dist.weight": torch.zeros(10, 32), "head_dist.bias": torch.zeros(10)}
    with pytest.raises(CheckpointError, match=r"^x\.pth: a second head, 'head_dist'"):
        identify(in_hand(state, pruning_loc=[1, 2, 3], num_heads=2))


def test_positions_that_may_stand_for_two_grids_ask_for_the_image_size() -> None:
    """Nine rows: three by three patches, or two by two and five tokens that lead them."""
    model = build("deit", 0, registers=4, img_size=8)
    assert model.pos_embed.shape[1] == 9
    checkpoint = checkpoint_of(model)
    with pytest.raises(CheckpointError, match="9 rows, which stand for 4 or 9 patches, as 5 tok"):
        identify(checkpoint)
    assert identify(checkpoint, img_size=8)[1] == model.config
    assert identify(checkpoint_of(model, input_size=12))[1].unplaced == 5


def test_a_told_size_says_whether_a_class_token_has_a_place() -> None:
    """A configuration by keyword, as files hold it that were written before."""
    old = {"embed_dim": 32, "num_heads": 2, "depth": 4, "prune_at": [1, 2, 3], "img_size": 224}
    config = DeiTConfig(**old)
    assert (config.leading, config.global_pool, config.norm) == (1, "token", True)


@pytest.mark.parametrize("token", ["dist_token", "reg_token"])
def test_a_family_without_a_place_for_a_token_names_it(token: str) -> None:
    state = dict(build("lvvit", 0).state_dict())
    state[token] = torch.zeros(1, 1, 32)
    checkpoint = in_hand(state, pruning_loc=[1, 2, 3], num_heads=2)
    with pytest.raises(CheckpointError, match=rf"no place for, first '{token}'"):
        build_model(checkpoint, *identify(checkpoint))
