"""Files that are refused as checkpoints, and none runs code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from made.saved import State, filled
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor

from dynexport.errors import CheckpointError, InputError, ModelFileError
from dynexport.formats.onnx_file import read_model
from dynexport.pytorch.checkpoint import load_checkpoint


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
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"epoch,loss\n1,0.5\n", id="csv"),
        pytest.param(b"PK\x03\x04" + bytes(50), id="head of a zip"),
        pytest.param(b"\x80\x02", id="head of a pickle"),
        pytest.param(b"P", id="one byte"),
        pytest.param(bytes(100), id="zeros"),
        pytest.param(b"{}", id="json"),
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
    with pytest.raises(ModelFileError, match=r"x\.npz is an \.npz of arrays, not an ONNX"):
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


def test_a_tensor_that_only_says_to_be_large_fills_no_memory(
    save: Callable[..., Path], state: State
) -> None:
    """A row that is repeated is stored once, and has a shape all the same."""
    state["head.weight"] = torch.zeros(1, 64).expand(10**12, 64)
    with pytest.raises(CheckpointError, match=r"'head\.weight' has shape \[10{12}, 64\], and the"):
        load_checkpoint(save({"model": state}))
    state["head.weight"] = torch.ones(1, 64).expand(10, 64)
    assert load_checkpoint(save({"model": state})).state["head.weight"].shape == (10, 64)
