"""What model a checkpoint holds, told by its tensors and arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from made.saved import State, in_hand
from torch import nn

from dynexport.errors import CheckpointError
from dynexport.models import families, find_family, variants
from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.pytorch.identify import identify


@pytest.mark.parametrize("name", ["deit-256", "deit-s", "deit-b"])
@pytest.mark.parametrize(("num_classes", "img_size"), [(1000, 224), (10, 224), (21841, 384)])
def test_published_variants_are_recognised_at_any_size(
    name: str, num_classes: int, img_size: int
) -> None:
    family, published = variants()[name]
    config = dataclasses.replace(published, num_classes=num_classes, img_size=img_size)
    with torch.device("meta"):
        state = family.model(config).state_dict()
    for asked in (None, name):
        found_family, found = identify(in_hand(state), model=asked)
        assert found_family is family
        assert found == config


def test_recorded_pruning_locations_are_used_before_the_published_ones() -> None:
    family, published = variants()["deit-s"]
    with torch.device("meta"):
        state = family.model(published).state_dict()
    _, config = identify(in_hand(state, pruning_loc=[2, 5, 8]))
    assert config == dataclasses.replace(published, prune_at=(2, 5, 8))
    _, config = identify(in_hand(state, pruning_loc=[2, 5, 8]), prune_at=(1, 2, 3))
    assert config.prune_at == (1, 2, 3)


@pytest.mark.parametrize("recorded", ["pruning_loc", "prune_at"])
def test_a_tiny_model_is_read_off_its_tensors_and_arguments(
    state: State, tiny_model: nn.Module, recorded: str
) -> None:
    family, config = identify(in_hand(state, **{recorded: [1, 2, 3]}))
    assert family.name == "deit"
    assert config == tiny_model.config


def test_other_families_are_refused_with_the_known_ones() -> None:
    names = ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight")
    resnet = {name: torch.zeros(2) for name in names}
    with pytest.raises(CheckpointError) as error:
        identify(in_hand(resnet))
    assert "4 tensors (conv1.weight, bn1.running_mean, layer1.0.conv1.weight ...)" in str(
        error.value
    )
    assert f"no known family: known are {', '.join(families())};" in str(error.value)
    assert str(error.value).endswith(
        f"with `model` ({', '.join(variants())}); a family of your own is given with `plugins`"
    )


def test_another_family_under_a_published_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth is no deit-s: .* another model"):
        identify(in_hand({"conv1.weight": torch.zeros(2)}), model="deit-s")


def test_a_dense_model_has_nothing_to_prune(state: State) -> None:
    dense = {n: t for n, t in state.items() if not n.startswith("score_predictor")}
    with pytest.raises(
        CheckpointError, match=r"no predictors \(score_predictor\.0 \.\.\.\).*dense"
    ):
        identify(in_hand(dense, pruning_loc=[1, 2, 3]))


def test_a_dense_model_is_told_from_one_whose_heads_are_open(narrow: State) -> None:
    dense = {n: t for n, t in narrow.items() if not n.startswith("score_predictor")}
    with pytest.raises(CheckpointError, match="this is a dense model"):
        identify(in_hand(dense))


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("diet-s", "unknown model 'diet-s': did you mean 'deit-s'? choose from "),
        ("resnet", "unknown model 'resnet': choose from "),
    ],
)
def test_an_unknown_variant_is_refused_with_the_nearest_name(asked: str, problem: str) -> None:
    with pytest.raises(CheckpointError) as error:
        identify(in_hand({}), model=asked)
    assert str(error.value) == f"x.pth: {problem}{', '.join(variants())}"


DEITS = find_family("deit").variants


WRONG = [(real, asked) for real in DEITS for asked in DEITS if real != asked]


@pytest.mark.parametrize(("real", "asked"), WRONG)
def test_a_wrong_variant_is_refused(real: str, asked: str) -> None:
    family, published = variants()[real]
    with torch.device("meta"):
        state = family.model(published).state_dict()
    with pytest.raises(CheckpointError):
        identify(in_hand(state), model=asked)


@pytest.mark.parametrize(("real", "asked"), WRONG)
def test_a_wrong_variant_is_refused_with_the_right_one(real: str, asked: str) -> None:
    family, published = variants()[real]
    with torch.device("meta"):
        state = family.model(published).state_dict()
    with pytest.raises(CheckpointError) as error:
        identify(in_hand(state), model=asked)
    assert f"x.pth is no {asked}: its tensors are those of {real};" in str(error.value)


def test_a_custom_model_under_a_published_name_is_refused(state: State) -> None:
    with pytest.raises(CheckpointError, match=r"is no deit-s: .* those of a custom deit;"):
        identify(in_hand(state, pruning_loc=[1, 2, 3]), model="deit-s", num_heads=1)


def test_unrecorded_pruning_locations_are_asked_for_and_then_taken(state: State) -> None:
    checkpoint = in_hand(state)
    with pytest.raises(CheckpointError) as error:
        identify(checkpoint)
    assert "3 predictors for 4 blocks" in str(error.value)
    assert str(error.value).endswith("say it, as in `prune_at` 1,2,3")
    assert identify(checkpoint, prune_at=(0, 1, 3))[1].prune_at == (0, 1, 3)


@pytest.mark.parametrize(
    ("prune_at", "problem"),
    [
        (
            (1, 2),
            r"2 pruning locations \[1, 2\] were given for 3 predictors: give 3, as in `prune",
        ),
        ((0, 1, 2, 3), "4 pruning locations .* for 3 predictors: give 3"),
        ((1, 2, 4), r"\[1, 2, 4\] are not valid for 4 blocks: .* from 0 to 3"),
        ((-1, 2, 3), r"\[-1, 2, 3\] are not valid"),
        ((3, 2, 1), r"\[3, 2, 1\] are not valid .*increasing"),
        ((1, 1, 2), r"\[1, 1, 2\] are not valid"),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_pruning_locations_that_do_not_fit_are_refused(
    state: State, prune_at: tuple[int, ...], problem: str, recorded: bool
) -> None:
    checkpoint = in_hand(state, pruning_loc=list(prune_at)) if recorded else in_hand(state)
    with pytest.raises(CheckpointError, match=problem):
        identify(checkpoint, prune_at=None if recorded else prune_at)


@pytest.mark.parametrize(
    "args",
    [
        {"pruning_loc": "x,y,z"},
        {"pruning_loc": 3},
        {"pruning_loc": ["a", "b", "c"]},
        {"pruning_loc": [1, 2, 3], "num_heads": "many"},
        {"pruning_loc": [1, 2, 3], "num_heads": [2]},
    ],
    ids=str,
)
def test_recorded_arguments_that_are_no_numbers_are_refused_or_ignored(
    state: State, args: dict[str, Any]
) -> None:
    try:
        config = identify(in_hand(state, **args))[1]
    except CheckpointError:
        return
    assert config.num_heads == 1
    assert config.prune_at == (1, 2, 3)


@pytest.fixture
def narrow() -> State:
    """A width that 64 does not divide."""
    config = DeiTConfig(
        embed_dim=24, num_heads=3, depth=2, prune_at=(1,), patch_size=4, img_size=8, num_classes=2
    )
    return dict(DynamicDeiT(config).state_dict())


def test_a_width_that_64_does_not_divide_asks_for_heads_with_every_choice(narrow: State) -> None:
    with pytest.raises(CheckpointError) as error:
        identify(in_hand(narrow, pruning_loc=[1]))
    assert "cannot be read from tensors 24 wide" in str(error.value)
    assert str(error.value).endswith("say it with `num_heads`, one of 1, 2, 3, 4, 6, 8, 12, 24")


def test_all_that_is_open_is_asked_for_at_once(narrow: State) -> None:
    with pytest.raises(CheckpointError) as error:
        identify(in_hand(narrow))
    assert "1 predictors for 2 blocks, and nothing" in str(error.value)
    assert "say it, as in `prune_at` 1; and the number of attention heads" in str(error.value)
    assert str(error.value).endswith("say it with `num_heads`, one of 1, 2, 3, 4, 6, 8, 12, 24")
    assert identify(in_hand(narrow), prune_at=(1,), num_heads=3)[1].num_heads == 3


def test_heads_come_from_arguments_or_the_user(narrow: State) -> None:
    assert identify(in_hand(narrow, pruning_loc=[1], num_heads=3))[1].num_heads == 3
    assert identify(in_hand(narrow, pruning_loc=[1]), num_heads=6)[1].num_heads == 6
    assert identify(in_hand(narrow, pruning_loc=[1], num_heads=3), num_heads=6)[1].num_heads == 6


@pytest.mark.parametrize(
    ("num_heads", "problem"), [(5, "24 channels do not divide into 5 heads"), (-1, "at least 1")]
)
def test_heads_that_do_not_fit_are_refused(narrow: State, num_heads: int, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        identify(in_hand(narrow, pruning_loc=[1]), num_heads=num_heads)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 48, 64), "'pos_embed' stands for 47 patches, which make no square grid"),
        ((1, 0, 64), "'pos_embed' stands for -1 patches"),
        ((50, 64), r"'pos_embed' has shape \[50, 64\]: expected 3 dimensions"),
    ],
)
def test_position_embeddings_of_no_square_grid_are_refused(
    state: State, shape: tuple[int, ...], problem: str
) -> None:
    state["pos_embed"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=problem):
        identify(in_hand(state, pruning_loc=[1, 2, 3]))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_model_may_take_any_number_of_channels(state: State, channels: int) -> None:
    state["patch_embed.proj.weight"] = torch.zeros(64, channels, 4, 4)
    assert identify(in_hand(state, pruning_loc=[1, 2, 3]))[1].in_chans == channels


def test_a_model_without_channels_is_refused(state: State) -> None:
    state["patch_embed.proj.weight"] = torch.zeros(64, 0, 4, 4)
    with pytest.raises(CheckpointError, match="in_chans is 0: it must be at least 1"):
        identify(in_hand(state, pruning_loc=[1, 2, 3]))
