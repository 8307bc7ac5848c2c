"""Checkpoint files of every kind, whole and broken, to weights and configurations."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor, nn

from dynexport.errors import CheckpointError, InputError, ModelFileError
from dynexport.formats.onnx_file import read_model
from dynexport.models import families, find_family, variants
from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.pytorch.checkpoint import Checkpoint, load_checkpoint
from dynexport.pytorch.identify import build_model, identify

State = dict[str, Tensor]


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


def in_hand(state: State, **args: Any) -> Checkpoint:
    """A checkpoint as if it had been read from a file."""
    return Checkpoint(Path("x.pth"), "0" * 64, state, args, "model", ("model",))


def same(found: State, expected: State) -> bool:
    return list(found) == list(expected) and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def filled(checkpoint: Checkpoint, **hints: Any) -> nn.Module:
    return build_model(checkpoint, *identify(checkpoint, **hints))


# ---------------------------------------------------------------- what can be read


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


# ---------------------------------------------------------------- files that are refused


class Creates:
    """Unpickled without care, this calls ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("way", ["zip", "old torch format", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("function", [os.mkdir, open, exec], ids=lambda f: f.__name__)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, function: Callable[..., Any], way: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    arguments: dict[str, tuple[Any, ...]] = {
        "mkdir": (str(marker),),
        "open": (str(marker), "w"),
        "exec": (f"open({str(marker)!r}, 'w')",),
    }
    evil = {"model": Creates(function, *arguments[function.__name__])}
    if way.startswith("pickle"):
        path.write_bytes(pickle.dumps(evil, protocol=int(way[-1])))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert not marker.exists()
    assert "\n" not in str(error.value)


def test_the_file_above_would_have_run_its_code(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Creates(os.mkdir, str(tmp_path / "marker"))))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (datetime.date(2024, 1, 1), "datetime.date"),
        (Path("x"), "pathlib."),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (Creates(eval, "1"), "eval"),
        pytest.param(Creates(os.mkdir, "x"), "mkdir"),
    ],
    ids=["date", "path", "module", "eval", "mkdir"],
)
def test_an_object_that_is_no_tensor_is_refused_by_name(
    save: Callable[..., Path], state: State, beside: Any, named: str
) -> None:
    with pytest.raises(CheckpointError, match="holds more than weights") as error:
        load_checkpoint(save({"model": state, "extra": beside}))
    assert named in str(error.value)
    assert "save it again as torch.save({'model': model.state_dict()}, path)" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"epoch,loss\n1,0.5\n", id="csv"),
        pytest.param(b"PK\x03\x04" + bytes(50), id="head of a zip"),
        pytest.param(b"\x80\x02", id="head of a pickle"),
        pytest.param(b"P", id="one byte"),
        pytest.param(bytes(100), id="zeros"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="picture"),
        pytest.param(b"{}", id="json"),
        pytest.param(b"<html><body>404 Not Found</body></html>", id="page"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", id="pointer"
        ),
    ],
)
def test_a_torch_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth is not a complete checkpoint: .*copy it"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"hello\n", bytes(8), b"\xff" * 16, b"PK\x03\x04"])
def test_a_safetensors_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", ["zip", "old torch format", "safetensors"])
@pytest.mark.parametrize("left", [4, 9, 100, 1000, 0.1, 0.5, 0.9, 0.999, -100, -22, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, state: State, kind: str, left: float) -> None:
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    cut = int(len(whole) * left) if isinstance(left, float) else left
    path.write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match="is not a complete checkpoint: it is cut short"):
        load_checkpoint(path)


def write_onnx(path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    onnx.save(helper.make_model(graph), str(path))


def write_arrays(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, images=np.zeros(3), labels=np.zeros(3))


@pytest.mark.parametrize("name", ["x.onnx", "x.pth", "x.safetensors", "x"])
@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (write_onnx, "is an ONNX file, not a checkpoint: give the checkpoint it was made from"),
        (write_arrays, "is an .npz of arrays, not a checkpoint: give a .pth"),
    ],
    ids=["onnx", "npz"],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_another_kind_is_not_called_damaged(
    tmp_path: Path, name: str, write: Callable[[Path], None], problem: str, whole: bool
) -> None:
    path = tmp_path / name
    write(path)
    if not whole:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path} {problem}")


@pytest.mark.parametrize("kind", ["zip", "old torch format", "safetensors"])
@pytest.mark.parametrize("name", ["x.pth", "x.onnx"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_given_as_an_onnx_file_is_named(
    tmp_path: Path, state: State, kind: str, name: str, whole: bool
) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=kind == "zip")
    if not whole:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError) as error:
        read_model(path)
    assert str(error.value).startswith(f"{path} is a checkpoint, not an ONNX file: run  dynexport")


def test_arrays_given_as_an_onnx_file_are_named(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz")
    with pytest.raises(ModelFileError, match=r"x\.npz is an \.npz or another zip, not an ONNX"):
        read_model(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("name", "problem"), [(".", "is a folder: expected a checkpoint"), ("no.pth", "does not exist")]
)
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.zeros(1)], "holds no dict but a list: expected weights by name"),
        ("text", "holds no dict but a str"),
        (torch.zeros(3), "holds no dict but a Tensor"),
        (None, "holds no dict but a NoneType"),
        ({}, "expected tensors by name, found nothing"),
        ({"model": {}}, "no state dict under 'model': expected tensors by name, found nothing"),
        ({"epoch": 3, "lr": 0.1}, "found 'epoch', 'lr'"),
        ({"model": {"a": torch.zeros(1), "b": 2}}, "under 'model': .*found 'b'"),
        ({"a": torch.zeros(1), "b": [1]}, "found 'b'"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(
    save: Callable[..., Path], content: Any, problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(save(content))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_refused_by_name(
    save: Callable[..., Path], state: State, value: float, dtype: torch.dtype
) -> None:
    broken = {name: tensor.to(dtype) for name, tensor in state.items()}
    broken["head.weight"][3, 5] = value
    with pytest.raises(
        CheckpointError, match=r"NaN or infinity in 1 tensors, first 'head\.weight'"
    ):
        load_checkpoint(save({"model": broken}))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda tensor: tensor.int(), id="int"),
        pytest.param(lambda tensor: tensor.to(torch.complex64), id="complex"),
        pytest.param(lambda tensor: tensor.to_sparse(), id="sparse"),
        pytest.param(lambda tensor: tensor.to(torch.float8_e4m3fn), id="float8"),
        pytest.param(lambda tensor: tensor.to("meta"), id="no data"),
    ],
)
def test_a_weight_that_is_no_dense_float_is_refused_by_name(
    save: Callable[..., Path], state: State, make: Callable[[Tensor], Tensor]
) -> None:
    path = save({"model": {**state, "norm.bias": make(state["norm.bias"])}})
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        filled(load_checkpoint(path), prune_at=(1, 2, 3))


# ---------------------------------------------------------------- weights that do not fit


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


# ---------------------------------------------------------------- what model it is


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
        ((1, 49, 64), "'pos_embed' stands for 48 patches, which make no square grid"),
        ((1, 1, 64), "'pos_embed' stands for 0 patches"),
        ((1, 0, 64), "no square grid: only square images are supported"),
        ((50, 64), r"'pos_embed' has shape \[50, 64\]: expected 3 dimensions"),
    ],
)
def test_position_embeddings_of_no_square_grid_are_refused(
    state: State, shape: tuple[int, ...], problem: str
) -> None:
    state["pos_embed"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=problem):
        identify(in_hand(state, pruning_loc=[1, 2, 3]))


@pytest.mark.parametrize("dimension", [1, 4])
def test_a_model_of_other_than_three_channels_is_refused(state: State, dimension: int) -> None:
    state["patch_embed.proj.weight"] = torch.zeros(64, dimension, 4, 4)
    with pytest.raises(CheckpointError, match="channels"):
        identify(in_hand(state, pruning_loc=[1, 2, 3]))
