"""Checkpoints that can be read, whoever saved them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made.saved import State, filled
from safetensors.torch import save_file
from torch import nn

from dynexport.errors import CheckpointError
from dynexport.pytorch.checkpoint import load_checkpoint


def same(found: State, expected: State) -> bool:
    return list(found) == list(expected) and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pth.tar", "x.bin", "with späces 模型.pth"])
def test_torch_files_are_read_whatever_their_suffix(
    save: Callable[..., Path], state: State, name: str
) -> None:
    loaded = load_checkpoint(save({"model": state}, name))
    assert same(loaded.state, state)
    assert loaded.weights == "model"


def test_files_of_the_old_torch_format_are_read(save: Callable[..., Path], state: State) -> None:
    path = save({"model": state}, _use_new_zipfile_serialization=False)
    assert same(load_checkpoint(path).state, state)


def test_safetensors_are_read(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "x.safetensors")
    loaded = load_checkpoint(str(tmp_path / "x.safetensors"))
    assert {n: t.tolist() for n, t in loaded.state.items()} == {
        n: t.tolist() for n, t in state.items()
    }
    assert (loaded.weights, loaded.available, loaded.args) == ("bare", (), {})


@pytest.mark.parametrize("container", ["model", "model_ema", "state_dict"])
def test_weights_are_found_in_every_container(
    save: Callable[..., Path], state: State, container: str
) -> None:
    loaded = load_checkpoint(save({"epoch": 3, container: state}))
    assert (loaded.weights, loaded.available) == (container, (container,))
    assert same(loaded.state, state)


def test_bare_weights_are_read(save: Callable[..., Path], state: State) -> None:
    loaded = load_checkpoint(save(state))
    assert (loaded.weights, loaded.available) == ("bare", ())
    assert same(loaded.state, state)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "backbone.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.backbone.",
        "backbone.module.",
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_prefixes_of_wrappers_are_cut(
    save: Callable[..., Path], state: State, prefix: str, wrapped: bool
) -> None:
    prefixed = {prefix + name: tensor for name, tensor in state.items()}
    loaded = load_checkpoint(save({"model": prefixed} if wrapped else prefixed))
    assert same(loaded.state, state)


def test_a_prefix_that_not_all_names_share_stays(save: Callable[..., Path]) -> None:
    loaded = load_checkpoint(save({"module.a": torch.zeros(1), "b": torch.zeros(1)}))
    assert list(loaded.state) == ["module.a", "b"]


def test_the_average_is_taken_when_asked_for_and_the_model_otherwise(
    save: Callable[..., Path], state: State
) -> None:
    average = {name: tensor + 1 for name, tensor in state.items()}
    path = save({"model": state, "model_ema": average})
    for weights, expected in ((None, state), ("model", state), ("model_ema", average)):
        loaded = load_checkpoint(path, weights)
        assert same(loaded.state, expected)
        assert loaded.weights == (weights or "model")
        assert loaded.available == ("model", "model_ema")


@pytest.mark.parametrize(
    ("wrapped", "found"), [(True, "found model"), (False, "found bare weights only")]
)
def test_weights_that_are_absent_are_refused_with_those_there_are(
    save: Callable[..., Path], state: State, wrapped: bool, found: str
) -> None:
    path = save({"model": state} if wrapped else state)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path, "model_ema")
    assert str(error.value) == f"{path} has no weights under 'model_ema': {found}"


@pytest.mark.parametrize("as_namespace", [True, False])
def test_plain_values_beside_the_weights_are_kept(
    save: Callable[..., Path], state: State, as_namespace: bool
) -> None:
    plain = {"lr": 1e-3, "epochs": 30, "name": "x", "on": True, "pruning_loc": [1, 2, 3]}
    args = {**plain, "nothing": None, "tensor": torch.zeros(1), "deep": {"a": 1}}
    recorded = argparse.Namespace(**args) if as_namespace else args
    assert load_checkpoint(save({"model": state, "args": recorded})).args == plain


@pytest.mark.parametrize("args", [None, [1, 2], "text", 3])
def test_arguments_that_name_nothing_are_left_out(
    save: Callable[..., Path], state: State, args: Any
) -> None:
    assert load_checkpoint(save({"model": state, "args": args})).args == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_become_float32(
    save: Callable[..., Path], state: State, dtype: torch.dtype
) -> None:
    converted = {name: tensor.to(dtype) for name, tensor in state.items()}
    model = filled(load_checkpoint(save({"model": converted})), prune_at=(1, 2, 3))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert same(model.state_dict(), {n: t.float() for n, t in converted.items()})


def test_the_model_built_is_the_one_saved(tiny_checkpoint: Path, tiny_model: nn.Module) -> None:
    model = filled(load_checkpoint(tiny_checkpoint))
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images).logits, tiny_model(images).logits)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
