"""How pictures were prepared: read where a checkpoint records it, else assumed and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made.tiny import build
from safetensors.torch import save_file

from dynexport.cli import main
from dynexport.conversion import Recipe, open_checkpoint
from dynexport.errors import InputError
from dynexport.images import ImageSize, Preprocessing
from dynexport.models.deit import DeiTConfig
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.transform import read_preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)
MEAN = "mean of pixels 0.485, 0.456, 0.406 (else `mean`)"
STD = "deviation of pixels 0.229, 0.224, 0.225 (else `std`)"
REFERENCE = "imagenet_default_mean_and_std"


def read(
    args: dict[str, Any], size: int | tuple[int, int] = 224, channels: int = 3, **said: Any
) -> tuple[Preprocessing, list[str]]:
    config = DeiTConfig(32, 2, 4, (1,), 1, ImageSize.of(size), in_chans=channels)
    steps, assumed = read_preprocessing(args, config, **said)
    return steps, [str(one) for one in assumed]


@pytest.mark.parametrize(
    ("size", "resize", "warp", "said"),
    [
        (224, 256, False, "pictures resized to 256 and cut to 224 (else `crop_pct`)"),
        (383, 437, False, "pictures resized to 437 and cut to 383 (else `crop_pct`)"),
        (384, 384, True, "pictures warped to 384 (else `crop_pct`)"),
        ((128, 64), (128, 64), True, "pictures warped to 128x64 (else `crop_pct`)"),
        (32, None, False, None),
    ],
)
def test_where_nothing_tells_it_is_as_the_reference_evaluates_and_said(
    size: Any, resize: Any, warp: bool, said: str | None
) -> None:
    steps, assumed = read({}, size)
    assert steps == Preprocessing(size, resize, *IMAGENET, warp)
    assert assumed == [MEAN, STD, *([said] if said else [])]


@pytest.mark.parametrize(
    ("args", "size", "expected"),
    [
        ({REFERENCE: True}, 224, Preprocessing(224, 256, *IMAGENET)),
        ({REFERENCE: False}, 224, Preprocessing(224, 256, *HALVES)),
        ({REFERENCE: False, "crop_pct": 1.0}, 64, Preprocessing(64, 64, *HALVES)),
        # the reference reads crop_pct below 384 pixels alone
        ({REFERENCE: True, "crop_pct": 0.9}, 224, Preprocessing(224, 248, *IMAGENET)),
        ({REFERENCE: True, "crop_pct": 0.9}, 384, Preprocessing(384, 384, *IMAGENET, warp=True)),
        # timm reads it everywhere, and an option that was not given is recorded as None
        (
            {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0},
            384,
            Preprocessing(384, 384, *HALVES),
        ),
        (
            {"mean": [0.5], "std": 0.5, "crop_pct": None},
            224,
            Preprocessing(224, 256, *HALVES),
        ),
        (
            {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_mode": "squash"},
            224,
            Preprocessing(224, 224, *HALVES, warp=True),
        ),
    ],
)
def test_what_is_recorded_is_read_and_not_assumed(
    args: dict[str, Any], size: int, expected: Preprocessing
) -> None:
    assert read(args, size) == (expected, [])


@pytest.mark.parametrize(
    "args",
    [
        {"mean": None, "std": None},
        {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},  # of 255
        {"mean": [0.5, 0.5], "std": [0.5, 0.5]},
        {"mean": "imagenet", "std": [True, True, True]},
        {"mean": [], "std": [0.0, 0.0, 0.0]},
        {"mean": [float("nan")] * 3, "std": [float("inf")] * 3},
        {"crop_pct": None, "mean": {"a": 1}},
    ],
)
def test_what_cannot_be_meant_is_not_read(args: dict[str, Any]) -> None:
    steps, assumed = read(args)
    assert (steps.mean, steps.std) == IMAGENET
    assert assumed[:2] == [MEAN, STD]


def test_other_channels_have_the_averages_of_imagenets() -> None:
    steps, assumed = read({REFERENCE: True}, 28, 1)
    assert (steps.mean, steps.std) == ((0.449,), (0.226,))
    assert assumed == [
        "mean of pixels 0.449 (else `mean`)",
        "deviation of pixels 0.226 (else `std`)",
    ]
    steps, assumed = read({}, 28, 6)
    assert (steps.mean, steps.std) == ((0.449,) * 6, (0.226,) * 6)
    assert assumed[0] == "mean of pixels 0.449 each (else `mean`)"
    assert read({REFERENCE: False}, 28, 6)[0].std == (0.5,) * 6


def test_what_the_user_says_comes_first_and_one_value_stands_for_all() -> None:
    args = {REFERENCE: True, "crop_pct": 0.9}
    steps, assumed = read(args, 384, 4, mean=(0.1,), std=(0.1, 0.2, 0.3, 0.4), crop_pct=1.0)
    assert steps == Preprocessing(384, 384, (0.1,) * 4, (0.1, 0.2, 0.3, 0.4))
    assert assumed == []
    assert read({}, 28, warp=True)[0] == Preprocessing(28, 28, *IMAGENET, warp=True)
    assert read({}, 28, warp=True, crop_pct=0.5)[0] == Preprocessing(28, 56, *IMAGENET, warp=True)
    assert read({}, 28, crop_pct=0.875)[0] == Preprocessing(28, 32, *IMAGENET)
    assert read({}, 224, mean=(0.5,))[1][0] == STD  # the deviation is still a guess


def test_as_many_values_as_channels_or_one() -> None:
    problem = "`mean` has 3 values, and the model takes 4 channels: give one for each, or one for"
    with pytest.raises(InputError, match=problem):
        read({}, 224, 4, mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mean": (123.675,)}, "`mean` 123.675 is not between 0 and 1: pixels are taken from 0"),
        ({"std": (0.0, 0.5, 0.5)}, "`std` 0.0, 0.5, 0.5 is not between 0 and 1"),
        ({"std": (float("nan"),)}, "`std` nan is not between 0 and 1"),
        ({"mean": ()}, "`mean`  is not between 0 and 1"),
        ({"crop_pct": 0.0}, "`crop_pct` is 0.0: give the share"),
        ({"crop_pct": 1.5}, "`crop_pct` is 1.5: give the share"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Recipe("c.pth", **settings)


def test_the_command_line_asks_for_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["convert", str(tmp_path / "c.pth"), "--mean", "0.5;0.5"])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "error: --mean '0.5;0.5' is no list of numbers: write it as 0.485,0.456,0.406\n"
    )


@pytest.mark.parametrize(
    ("config", "preprocessor", "expected"),
    [
        (  # timm's
            {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}},
            None,
            Preprocessing(64, 71, *HALVES),
        ),
        (  # ViTImageProcessor
            {},
            {
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "do_resize": True,
                "size": {"height": 64, "width": 64},
            },
            Preprocessing(64, 64, *HALVES, warp=True),
        ),
        (  # DeiTImageProcessor
            {},
            {
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "size": {"height": 73, "width": 73},
                "do_center_crop": True,
                "crop_size": {"height": 64, "width": 64},
            },
            Preprocessing(64, 73, *HALVES, warp=True),
        ),
        (  # CLIP's, and older ones
            {},
            {
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "size": 73,
                "do_center_crop": True,
                "crop_size": 64,
            },
            Preprocessing(64, 73, *HALVES),
        ),
        (  # ConvNextImageProcessor
            {},
            {
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "size": {"shortest_edge": 64},
                "crop_pct": 0.875,
            },
            Preprocessing(64, 73, *HALVES),
        ),
    ],
)
def test_settings_beside_the_weights_tell_it(
    tmp_path: Path, config: dict[str, Any], preprocessor: Any, expected: Preprocessing
) -> None:
    model = build("deit", 0, img_size=ImageSize(64, 64))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    trained = open_checkpoint(Recipe(tmp_path, prune_at=(1, 2, 3), num_heads=2))
    assert trained.preprocessing == expected
    assert not {"mean", "std", "crop_pct"} & {one.parameter for one in trained.assumed}


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"size": "large", "image_mean": 7}', '{"size": {}}']
)
def test_settings_that_say_nothing_do_no_harm(tmp_path: Path, content: str) -> None:
    save_file(build("deit", 0).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(content)
    args = load_checkpoint(tmp_path).args
    assert read(args, 28)[0] == Preprocessing(28, None, *IMAGENET)


def test_strict_asks_for_what_pictures_were(tmp_path: Path) -> None:
    told = {"num_heads": 2, "prune_at": [1, 2, 3], "input_size": 28}
    told |= {"norm_eps": 1e-6, "activation": "gelu", "global_pool": "token"}
    path = tmp_path / "c.pth"
    torch.save({"model": build("deit", 0).state_dict(), "args": told}, path)
    assert [one.parameter for one in open_checkpoint(Recipe(path)).assumed] == ["mean", "std"]
    trained = open_checkpoint(Recipe(path, mean=(0.5,), std=(0.25,), warp=True, strict=True))
    assert trained.preprocessing == Preprocessing(28, 28, (0.5,) * 3, (0.25,) * 3, warp=True)
