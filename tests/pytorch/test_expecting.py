"""What a user's own model answered: a reading of the checkpoint that gives other answers is
refused, and the assumption that was wrong is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made.tiny import build
from numpy.typing import NDArray
from torch import Tensor

from dynexport.conversion import Recipe, open_checkpoint
from dynexport.conversion.inputs import choose_schedule
from dynexport.errors import ImageError, ModelFileError, VerificationError
from dynexport.formats.expectation import Expectation
from dynexport.images import Preprocessing
from dynexport.pytorch.expecting import Reading, require_expected
from dynexport.pytorch.rewrite import oracle
from dynexport.schedule import KeepSchedule, power_schedule

ARGS = {
    "num_heads": 2,
    "prune_at": [1, 2, 3],
    "input_size": 28,
    "norm_eps": 1e-6,
    "activation": "gelu",
    "base_rate": 0.7,
}
OUTPUTS = {"logits": (10,)}
GELU = {"exact": F.gelu, "tanh": lambda x: F.gelu(x, approximate="tanh")}


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def own_model(
    state: Mapping[str, Tensor],
    images: Tensor,
    ratio: float | None = 0.7,
    *,
    heads: int = 2,
    places: tuple[int, ...] = (1, 2, 3),
    eps: float = 1e-6,
    act: Any = F.gelu,
) -> Tensor:
    """A DynamicDeiT as its authors run it: tokens are ranked, and the rest is dropped."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: Tensor, name: str, by: float = eps) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], by)

    def keep(x: Tensor, stage: int, count: int) -> Tensor:
        inside = f"score_predictor.{stage}"
        hidden = F.gelu(linear(norm(x[:, 1:], f"{inside}.in_conv.0", 1e-5), f"{inside}.in_conv.1"))
        local, shared = hidden.chunk(2, dim=-1)
        hidden = torch.cat([local, shared.mean(1, keepdim=True).expand_as(local)], dim=-1)
        for layer in (0, 2):
            hidden = F.gelu(linear(hidden, f"{inside}.out_conv.{layer}"))
        score = linear(hidden, f"{inside}.out_conv.4").log_softmax(-1)[..., 0]
        best = score.argsort(dim=1, descending=True)[:, :count] + 1
        rows = torch.cat([torch.zeros_like(best[:, :1]), best], dim=1)
        return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    def attend(x: Tensor, name: str) -> Tensor:
        split = (*x.shape[:2], 3, heads, x.shape[-1] // heads)
        q, k, v = linear(x, f"{name}.qkv").view(split).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return linear(mixed, f"{name}.proj")

    weight = state["patch_embed.proj.weight"]
    x = F.conv2d(images, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1])
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), x.flatten(2).mT], dim=1)
    x = x + state["pos_embed"]
    tokens = x.shape[1] - 1
    for block in range(4):
        if ratio is not None and block in places:
            stage = places.index(block)
            x = keep(x, stage, int(tokens * power_schedule(ratio).ratios[stage]))
        x = x + attend(norm(x, f"blocks.{block}.norm1"), f"blocks.{block}.attn")
        hidden = act(linear(norm(x, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{block}.mlp.fc2")
    return linear(norm(x[:, 0], "norm"), "head")


def scaled(pictures: NDArray[np.uint8], mean: Any, std: Any) -> Tensor:
    x = torch.from_numpy(pictures.astype(np.float32) / 255)
    return ((x - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATE = build("deit", 0).state_dict()
OTHER = build("deit", 1).state_dict()
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), dtype=np.uint8)
INPUTS = torch.randn(6, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def small(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tokens of a variance of about 1e-4, in which an epsilon of 1e-5 shows: 5 % of a norm."""
    scale = {"patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"}
    ends = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")
    return {
        name: value * 0.02 if name in scale or name.endswith(ends) else value
        for name, value in state.items()
    }


def check(
    folder: Path,
    logits: Tensor,
    images: Any = INPUTS,
    state: Mapping[str, Tensor] = STATE,
    args: Mapping[str, Any] = ARGS,
    **asked: Any,
) -> Any:
    """As convert checks what is expected, before it writes anything."""
    path, expect = folder / "x.pth", folder / "expect.npz"
    torch.save({"model": state, "model_ema": OTHER, "args": args}, path)
    np.savez(expect, images=np.asarray(images), logits=logits.numpy())
    trained = open_checkpoint(Recipe(path, **asked))
    keep = choose_schedule(Recipe(path, **asked), trained)
    steps = Preprocessing.for_size(trained.config.img_size)
    expectation = Expectation.load(expect, steps, OUTPUTS)
    reading = Reading(trained.checkpoint, trained.family, trained.config, keep, steps)
    return require_expected(reading, expectation)


def test_what_the_own_model_answers_is_what_is_read(tmp_path: Path) -> None:
    fit = check(tmp_path, own_model(STATE, INPUTS))
    assert fit.passed
    assert fit.settled >= 4
    assert fit.error < 1e-5
    fit = check(tmp_path, own_model(STATE, scaled(PICTURES, *IMAGENET)), PICTURES)
    assert fit.error < 1e-5
    assert check(tmp_path, own_model(STATE, INPUTS, None), dense=True).error < 1e-5


PLANTED: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"logits": own_model(STATE, INPUTS, heads=4)}, "`num_heads` 4"),
    "one head": ({"logits": own_model(STATE, INPUTS, heads=1)}, "`num_heads` 1"),
    "places": ({"logits": own_model(STATE, INPUTS, places=(0, 1, 2))}, "`prune_at` 0,1,2"),
    "places apart": ({"logits": own_model(STATE, INPUTS, places=(0, 1, 3))}, "`prune_at` 0,1,3"),
    "ratio": ({"logits": own_model(STATE, INPUTS, 0.5)}, "`ratio` 0.5"),
    "dense": ({"logits": own_model(STATE, INPUTS, None)}, "`dense`"),
    "tanh": ({"logits": own_model(STATE, INPUTS, act=GELU["tanh"])}, "`args` activation=gelu_tanh"),
    "quick": ({"logits": own_model(STATE, INPUTS, act=quick_gelu)}, "`args` activation=quick_gelu"),
    "relu": ({"logits": own_model(STATE, INPUTS, act=F.relu)}, "`args` activation=relu"),
    "epsilon": (
        {"logits": own_model(small(STATE), INPUTS, eps=1e-5), "state": small(STATE)},
        "`args` norm_eps=1e-05",
    ),
    "epsilon of transformers": (
        {"logits": own_model(small(STATE), INPUTS, eps=1e-12), "state": small(STATE)},
        "`args` norm_eps=1e-12",
    ),
    "average": ({"logits": own_model(OTHER, INPUTS)}, "`weights` model_ema"),
    "half": (
        {
            "logits": own_model(STATE, scaled(PICTURES, (0.5,) * 3, (0.5,) * 3)),
            "images": PICTURES,
        },
        "`mean` 0.5 and `std` 0.5",
    ),
    "unscaled": (
        {"logits": own_model(STATE, scaled(PICTURES, (0.0,) * 3, (1.0,) * 3)), "images": PICTURES},
        "`mean` 0 and `std` 1",
    ),
    "bytes": (
        {
            "logits": own_model(STATE, scaled(PICTURES, (0.0,) * 3, (1 / 255,) * 3)),
            "images": PICTURES,
        },
        "`mean` 0 and `std` 0.00392157",
    ),
    "order": (
        {
            "logits": own_model(STATE, scaled(PICTURES[..., ::-1].copy(), *IMAGENET)),
            "images": PICTURES,
        },
        "the channels of pictures in the order blue, green, red",
    ),
    "two": (
        {"logits": own_model(STATE, INPUTS, heads=4, act=quick_gelu)},
        "`num_heads` 4 and `args` activation=quick_gelu",
    ),
}


SLOW = {"two"}
"""Planted in which all single changes are tried, and then pairs."""


@pytest.mark.parametrize(
    "planted", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in PLANTED]
)
def test_what_was_assumed_wrong_is_named(tmp_path: Path, planted: str) -> None:
    given, cause = PLANTED[planted]
    with pytest.raises(VerificationError) as refused:
        check(tmp_path, **given)
    told = str(refused.value)
    assert told.startswith(f"{tmp_path / 'x.pth'}, as it is read, does not answer as ")
    assert f": with {cause}" in told, told


@pytest.mark.parametrize(("truth", "read"), [(1.0, 2.0), (3.0, 2.0), (2.0, 1.0)])
def test_the_residual_factor_is_named(tmp_path: Path, truth: float, read: float) -> None:
    model = build("lvvit", 0, skip_lam=truth)
    keep = KeepSchedule(power_schedule(0.7).ratios)
    with torch.inference_mode():
        logits = oracle(model, keep)(INPUTS).logits
    args = {**ARGS, "norm_eps": 1e-5, "skip_lam": read}
    with pytest.raises(VerificationError, match=f"with `args` skip_lam={truth:g} it fits"):
        check(tmp_path, logits, state=model.state_dict(), args=args)


@pytest.mark.parametrize("family", ["swin", "convnext"])
def test_the_two_paths_families_are_asked_as_well(tmp_path: Path, family: str) -> None:
    model = build(family, 0, activation="quick_gelu")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    args = {**ARGS, "input_size": 32, "norm_eps": model.config.norm_eps}
    with torch.inference_mode():
        logits = oracle(model, KeepSchedule((0.7, 0.5, 0.3)))(images).logits
    asked = {"images": images, "state": model.state_dict(), "args": args, "ratios": "0.7,0.5,0.3"}
    with pytest.raises(VerificationError, match="with `args` activation=quick_gelu it fits"):
        check(tmp_path, logits, **asked)
    asked["args"] = {**args, "activation": "quick_gelu"}
    assert check(tmp_path, logits, **asked).error < 1e-5


@pytest.mark.parametrize("how", ["softmax", "log_softmax"])
def test_logits_that_went_through_a_softmax_are_told(tmp_path: Path, how: str) -> None:
    with pytest.raises(VerificationError, match=f"holds logits that went through a {how}, before"):
        check(tmp_path, getattr(own_model(STATE, INPUTS), how)(-1))
    with pytest.raises(VerificationError, match="with `num_heads` 4 it fits"):
        check(tmp_path, getattr(own_model(STATE, INPUTS, heads=4), how)(-1))


@pytest.mark.slow
def test_where_nothing_fits_it_is_said(tmp_path: Path) -> None:
    noise = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    with pytest.raises(VerificationError, match=r"none of \d+ other readings fits.* record it"):
        check(tmp_path, noise)


def test_the_images_are_spread_over_those_recorded(tmp_path: Path) -> None:
    many = np.arange(100, dtype=np.float32).repeat(3 * 28 * 28).reshape(100, 3, 28, 28)
    logits = np.arange(1000, dtype=np.float32).reshape(100, 10)
    np.savez(tmp_path / "x.npz", images=many, logits=logits)
    found = Expectation.load(tmp_path / "x.npz", Preprocessing.for_size(28), OUTPUTS)
    assert found.recorded == 100
    assert found.images[:, 0, 0, 0].tolist() == [0, 12, 25, 37, 50, 62, 75, 87]
    assert (found.outputs["logits"][:, 0] == found.images[:, 0, 0, 0] * 10).all()


SOUND = {"images": INPUTS.numpy(), "logits": np.zeros((6, 10), np.float32)}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"logits": SOUND["logits"]}, "lacks 'images', it holds 'logits': record both"),
    "no answers": ({"images": SOUND["images"]}, "lacks 'logits', it holds 'images': record both"),
    "nothing": ({}, "lacks 'images', it holds no array by name: record both"),
    "another name": ({**SOUND, "output": SOUND["logits"]}, "holds 'output', which the model does"),
    "classes": ({**SOUND, "logits": np.zeros((6, 7), np.float32)}, "expected float32 [6, 10]"),
    "too few": ({**SOUND, "logits": np.zeros((5, 10), np.float32)}, "expected float32 [6, 10]"),
    "a class each": ({**SOUND, "logits": np.zeros(6, np.int64)}, "'logits' is int64 [6], expected"),
    "text": ({**SOUND, "logits": np.full((6, 10), "1.0")}, "expected float32 [6, 10]"),
    "NaN": ({**SOUND, "logits": np.full((6, 10), np.nan, np.float32)}, "holds NaN or infinity"),
    "objects": ({**SOUND, "logits": np.array([[{}] * 10] * 6)}, "is no complete .npz of plain"),
    "no image": (
        {"images": INPUTS.numpy()[:0], "logits": np.zeros((0, 10), np.float32)},
        "'images' is float32 [0, 3, 28, 28], expected",
    ),
    "size": (
        {**SOUND, "images": np.zeros((6, 3, 32, 32), np.float32)},
        "must have the model's own",
    ),
    "NaN in an image": (
        {**SOUND, "images": np.full((6, 3, 28, 28), np.nan, np.float32)},
        "no numbers",
    ),
    "images of text": ({**SOUND, "images": np.full((6, 3, 28, 28), "x")}, "'images' is <U1"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Path, broken: str) -> None:
    arrays, said = BROKEN[broken]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises((ModelFileError, ImageError), match=re.escape(said)):
        Expectation.load(tmp_path / "x.npz", Preprocessing.for_size(28), OUTPUTS)


@pytest.mark.parametrize("content", [b"", b"images", b"PK\x03\x04 cut short", b"\x80\x04N."])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is no complete \.npz|is a|lacks 'images'"):
        Expectation.load(tmp_path / "x.npz", Preprocessing.for_size(28), OUTPUTS)
