"""What no tensor tells of a checkpoint: it is read where it is recorded, else named, or refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from made.saved import in_hand
from made.tiny import build

from dynexport.cli import main
from dynexport.conversion import Recipe, open_checkpoint
from dynexport.conversion.inputs import choose_schedule
from dynexport.errors import CheckpointError, InputError
from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.models.lvvit import DynamicLVViT, LVViTConfig
from dynexport.models.swin import DynamicSwin
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import find_assumptions, identify
from dynexport.pytorch.rewrite import rewrite
from dynexport.schedule import KeepSchedule

NUMERICS = {"norm_eps": 1e-6, "activation": "gelu", "input_size": 32}
"""Recorded, so that tests of something else read of that alone."""

ALL_ELSE = {**NUMERICS, "global_pool": "token"}
"""All that no tensor of a DeiT tells, but for heads and blocks."""


def saved(path: Path, model: torch.nn.Module, **args: Any) -> Path:
    torch.save({"model": model.state_dict(), "args": args}, path)
    return path


def deep(**changes: Any) -> torch.nn.Module:
    return DynamicDeiT(DeiTConfig(embed_dim=64, num_heads=1, img_size=32, **changes))


def told(path: Path, **asked: Any) -> list[str]:
    loaded = load_checkpoint(path)
    family, config = identify(loaded, **asked)
    return [str(one) for one in find_assumptions(loaded, family, config, **asked)]


def test_what_nothing_tells_is_named_with_what_says_otherwise(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", deep())
    assert told(path) == [
        "attention in 1 x 64 channels (else `num_heads`)",
        "pruned before blocks 3, 6, 9 (else `prune_at`)",
        "images of 32 pixels (else `img_size`)",
        "LayerNorm epsilon 1e-06, exact GELU (else `args` norm_eps=1e-5, `args` "
        "activation=gelu_tanh)",
        "the head reads the class token (else `args` global_pool=avg)",
    ]


@pytest.mark.parametrize("name", ["prune_at", "pruning_loc", "reduction_loc", "drop_loc"])
def test_what_is_recorded_is_read(tmp_path: Path, name: str) -> None:
    """As trainers call it, TokenReduction and EViT among them."""
    path = saved(tmp_path / "x.pth", deep(), num_heads=1, **{name: [2, 6, 10]}, **ALL_ELSE)
    assert identify(load_checkpoint(path))[1].prune_at == (2, 6, 10)
    assert told(path) == []


@pytest.mark.parametrize("text", ["(2, 6, 10)", "[2,6,10]", "2,6,10", " ( 2,6, 10, ) "])
def test_pruning_locations_recorded_as_text_are_read(tmp_path: Path, text: str) -> None:
    """EViT records --drop_loc as it stood on the command line."""
    path = saved(tmp_path / "x.pth", deep(), drop_loc=text)
    assert identify(load_checkpoint(path))[1].prune_at == (2, 6, 10)


@pytest.mark.parametrize("text", ["()", "2, six, 10", "2.5, 6, 10", "__import__('os')", "-1,2,3"])
def test_text_that_lists_no_whole_numbers_tells_nothing(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path / "x.pth", deep(), drop_loc=text)
    assert identify(load_checkpoint(path))[1].prune_at == (3, 6, 9)


def test_what_the_user_says_is_not_assumed(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", deep(), **ALL_ELSE)
    assert told(path, prune_at=(2, 4, 6), num_heads=2) == []


def test_whoever_names_a_variant_has_told_all_of_it() -> None:
    with torch.device("meta"):
        state = DynamicDeiT(DeiTConfig(embed_dim=384, num_heads=6)).state_dict()
    checkpoint = in_hand(state)
    family, config = identify(checkpoint, "deit-s")
    assert find_assumptions(checkpoint, family, config, "deit-s") == ()
    assert len(find_assumptions(checkpoint, family, config)) == 5


@pytest.mark.parametrize("width", [1152, 1280, 1408])
def test_heads_are_not_guessed_where_known_models_have_others(width: int) -> None:
    """SO400M, ViT-H and ViT-g have 16, which are not 64 channels wide."""
    with torch.device("meta"):
        state = DynamicDeiT(DeiTConfig(width, 16, 2, (1,))).state_dict()
    with pytest.raises(CheckpointError, match=r"say it with `num_heads`, one of .*16"):
        identify(in_hand(state), prune_at=(1,))
    assert identify(in_hand(state), prune_at=(1,), num_heads=16)[1].num_heads == 16


@pytest.mark.parametrize(
    ("width", "heads", "depth", "skip_lam"),
    [(240, 4, 12, 1.0), (384, 6, 16, 2.0), (512, 8, 20, 2.0), (768, 12, 24, 3.0), (64, 1, 4, 2.0)],
)
def test_residuals_are_those_of_the_published_lvvits(
    width: int, heads: int, depth: int, skip_lam: float
) -> None:
    """TokenLabeling's lvvit_t, _s, _m and _l; two in any other, and it is said."""
    with torch.device("meta"):
        model = DynamicLVViT(LVViTConfig(width, heads, depth, (1,), img_size=32, num_classes=2))
    checkpoint = in_hand(model.state_dict(), **NUMERICS)
    family, config = identify(checkpoint, prune_at=(1,), num_heads=heads)
    assert config.skip_lam == skip_lam
    (assumed,) = find_assumptions(checkpoint, family, config, prune_at=(1,), num_heads=heads)
    assert str(assumed) == f"residual branches divided by {skip_lam:g} (else `args` skip_lam=1)"


def test_residuals_as_they_are_told_change_the_answers(tmp_path: Path) -> None:
    model = build("lvvit", 0, skip_lam=3.0)
    images = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    path = saved(
        tmp_path / "x.pth",
        model,
        prune_at=[1, 2, 3],
        num_heads=2,
        input_size=28,
        norm_eps=1e-5,
        activation="gelu",
    )
    right = open_checkpoint(Recipe(path, args=("skip_lam=3",)))
    wrong = open_checkpoint(Recipe(path))
    keep = KeepSchedule((0.7, 0.5, 0.3))
    with torch.inference_mode():
        expected, found, guessed = (
            rewrite(form, keep)(images).logits for form in (model, right.model, wrong.model)
        )
    assert torch.equal(found, expected)
    assert not torch.allclose(guessed, expected, atol=1e-2)
    assert [str(one) for one in wrong.assumed if one not in right.assumed] == [
        "residual branches divided by 2 (else `args` skip_lam=1)"
    ]


@pytest.mark.parametrize(
    ("args", "ratio"),
    [
        ({"base_rate": 0.7}, 0.7),
        ({"keep_rate": [0.6]}, 0.6),
        ({"keep_rate": 0.5}, 0.5),
        ({"base_keep_rate": 0.9}, 0.9),
    ],
)
def test_the_ratio_of_the_training_is_read_by_any_of_its_names(
    tmp_path: Path, args: dict[str, Any], ratio: float
) -> None:
    recipe = Recipe(saved(tmp_path / "x.pth", deep(), **args))
    keep = choose_schedule(recipe, open_checkpoint(recipe))
    assert keep is not None
    assert keep.ratios[0] == ratio


def test_strict_refuses_what_would_be_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "x.pth", deep())
    with pytest.raises(SystemExit) as left:
        main(["convert", str(path), "--ratio", "0.7", "--strict", "-q"])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {path} does not say all of what it is; assumed would be: attention in 1 x 64 "
        "channels (else --num-heads); pruned before blocks 3, 6, 9 (else --prune-at); images "
        "of 32 pixels (else --img-size); LayerNorm epsilon 1e-06, exact GELU (else --arg "
        "norm_eps=1e-5, --arg activation=gelu_tanh); the head reads the class token (else --arg "
        "global_pool=avg); mean of pixels 0.485, 0.456, 0.406 (else --mean); deviation of pixels "
        "0.229, 0.224, 0.225 (else --std)\n"
    )
    told = ("norm_eps=1e-6", "activation=gelu", "global_pool=token")
    known: dict[str, Any] = {"num_heads": 1, "prune_at": (3, 6, 9), "img_size": 32, "args": told}
    open_checkpoint(Recipe(path, strict=True, mean=(0.5,), std=(0.5,), **known))


@pytest.mark.parametrize(
    ("recorded", "eps", "activation"),
    [
        ({}, 1e-6, "gelu"),
        ({"layer_norm_eps": 1e-12, "hidden_act": "gelu_new"}, 1e-12, "gelu_tanh"),
        ({"norm_eps": "1e-5", "act_layer": "torch.nn.GELU"}, 1e-5, "gelu"),
        ({"act_layer": "QuickGELU"}, 1e-6, "quick_gelu"),
        ({"activation": "ReLU", "act_layer": "gelu"}, 1e-6, "relu"),
    ],
)
def test_epsilon_and_activation_are_read_by_any_name(
    tmp_path: Path, recorded: dict[str, Any], eps: float, activation: str
) -> None:
    config: Any = identify(load_checkpoint(saved(tmp_path / "x.pth", deep(), **recorded)))[1]
    assert (config.norm_eps, config.activation) == (eps, activation)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("norm_eps=small", "norm epsilon 'small' is no number: say it, as in `args` norm_eps=1e-6"),
        ("norm_eps=0", "norm epsilon 0.0 is not valid: give a number above 0"),
        ("norm_eps=nan", "norm epsilon nan is not valid"),
        ("activation=silu", "unknown activation 'silu': choose from gelu, gelu_tanh"),
    ],
)
def test_what_cannot_be_computed_with_is_refused(tmp_path: Path, argument: str, said: str) -> None:
    path = saved(tmp_path / "x.pth", deep())
    with pytest.raises(CheckpointError, match=re.escape(said)):
        open_checkpoint(Recipe(path, args=(argument,)))


@pytest.mark.parametrize("text", ["skip_lam", "=1", "skip_lam="])
def test_an_argument_that_tells_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="tells nothing: write NAME=VALUE"):
        Recipe("x.pth", args=(text,))


def test_arguments_are_numbers_texts_and_lists_and_are_told_again() -> None:
    recipe = Recipe("x.pth", args=("a=1", "b=0.5", "c=x", "d=1,2", "e=True", "f=false"))
    told = {"a": 1, "b": 0.5, "c": "x", "d": [1, 2], "e": True, "f": False}
    assert recipe.told_args() == told
    assert recipe.to_command().endswith(
        "--arg a=1 --arg b=0.5 --arg c=x --arg d=1,2 --arg e=True --arg f=false"
    )


def test_a_swin_of_oblong_images_is_not_taken_for_a_square_one() -> None:
    """Which windows a mask tells apart says how many lie down and how many across."""
    for size in ((32, 64), (64, 32), (32, 32), (48, 64)):
        model = DynamicSwin(dataclasses.replace(build("swin", 0).config, img_size=size))
        assert identify(in_hand(model.state_dict()), prune_at=(1, 2, 3))[1].img_size == size


def test_a_mask_that_is_none() -> None:
    state = build("swin", 0).state_dict()
    state["layers.2.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    with pytest.raises(CheckpointError, match=r"layers.2.*is no mask of shifted windows: leave it"):
        identify(in_hand(state), prune_at=(1, 2, 3))
