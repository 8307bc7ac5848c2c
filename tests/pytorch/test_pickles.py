"""Pickles are read with nothing in them run, and what stands beside an unknown class is had."""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import datetime
import enum
import importlib
import io
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made.saved import State, filled
from torch import nn

from dynexport.errors import CheckpointError
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.pickles import InertUnpickler


class Colour(enum.Enum):
    RED = 1


class Restored:
    """Unpickled without care, it runs what its state says."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> Any:
        return self.state


class Calls:
    """Unpickled without care, this calls ``function(*arguments)``, and restores the result."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.fixture
def config_class() -> Iterator[type]:
    """A class of a library that is not there when the file is read."""
    module = types.ModuleType("yacs_of_theirs")
    made = type("CfgNode", (dict,), {"__module__": module.__name__})
    module.CfgNode = made  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield made
    sys.modules.pop(module.__name__, None)


BESIDE = {
    "numpy scalar": np.float64(79.3),
    "numpy array": np.arange(6).reshape(2, 3),
    "array of objects": np.array([{"a": 1}, None], dtype=object),
    "path": Path("x"),
    "date": datetime.datetime(2024, 1, 1),
    "enum": Colour.RED,
    "counter": collections.Counter("abc"),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "namespace": argparse.Namespace(a=1, b=Path("y")),
    "module": nn.Linear(2, 2),
    "function": os.path.join,
    "bytes": bytearray(b"abc"),
    "range": range(3),
    "complex": 1j,
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_stands_beside_the_weights_is_passed_over(
    save: Callable[..., Path], state: State, what: str, zipped: bool
) -> None:
    content = {"model": state, "extra": BESIDE[what], "list": [BESIDE[what]]}
    loaded = load_checkpoint(save(content, _use_new_zipfile_serialization=zipped))
    assert loaded.state.keys() == state.keys()
    assert all(torch.equal(loaded.state[name], state[name]) for name in state)


def test_an_optimiser_beside_the_weights_is_passed_over(
    save: Callable[..., Path], state: State
) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimiser.step()
    content = {"model": state, "optimizer": optimiser.state_dict(), "whole": optimiser}
    assert load_checkpoint(save(content)).state.keys() == state.keys()


def test_a_class_that_cannot_be_imported_is_no_hindrance(
    save: Callable[..., Path], state: State, config_class: type
) -> None:
    path = save({"model": state, "config": config_class(base_rate=0.7, A={"B": 1})})
    del sys.modules["yacs_of_theirs"]
    loaded = load_checkpoint(path)
    assert loaded.state.keys() == state.keys()
    assert loaded.args == {"base_rate": 0.7}
    assert "yacs_of_theirs" not in sys.modules


def test_a_pickled_model_gives_its_weights(
    save: Callable[..., Path], tiny_model: nn.Module
) -> None:
    for content in (tiny_model, {"model": tiny_model}, {"ema": {"module": tiny_model}}):
        loaded = load_checkpoint(save(content))
        expected = tiny_model.state_dict()
        assert loaded.state.keys() == expected.keys()
        assert all(torch.equal(loaded.state[name], expected[name]) for name in expected)


def test_arrays_are_weights_too(save: Callable[..., Path], state: State) -> None:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    arrays["head.weight"] = np.asfortranarray(arrays["head.weight"]).astype(">f4")
    loaded = load_checkpoint(save({"model": arrays}))
    assert all(torch.equal(loaded.state[name], state[name]) for name in state)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_no_pytorch_file_is_read_as_well(
    tmp_path: Path, state: State, protocol: int
) -> None:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    for content in ({"model": arrays, "__author__": "x"}, {"model": state}):
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        found = load_checkpoint(path).state
        assert found.keys() == state.keys()
        assert all(found[name].equal(state[name]) for name in state)


def test_bytes_inside_a_pickle_run_nothing_either(tmp_path: Path) -> None:
    marker, inner = tmp_path / "ran", io.BytesIO()
    torch.save({"x": harmful(marker)[HARMFUL[0]]}, inner)

    class Storage:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": Storage()}))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.pkl")
    assert not marker.exists()


def test_a_script_gives_its_weights_and_runs_none_of_its_code(tmp_path: Path, state: State) -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in state.items():
                self.register(name.split("."), tensor)

        def register(self, words: list[str], tensor: torch.Tensor) -> None:
            inside: nn.Module = self
            for word in words[:-1]:
                if not hasattr(inside, word):
                    inside.add_module(word, nn.Module())
                inside = inside.get_submodule(word)
            inside.register_parameter(words[-1], nn.Parameter(tensor, requires_grad=False))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(Scripted(), torch.zeros(1)), path)  # type: ignore[no-untyped-call]
    loaded = load_checkpoint(path)
    assert loaded.state.keys() == state.keys()
    assert all(torch.equal(loaded.state[name], state[name]) for name in state)


def test_a_model_of_no_known_family_is_called_that(save: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"2 tensors .* of no known family"):
        filled(load_checkpoint(save(nn.Linear(2, 2))))


def harmful(marker: Path) -> dict[str, Any]:
    touch = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "os.mkdir": Calls(os.mkdir, str(marker)),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "open": Calls(open, str(marker), "w"),
        "subprocess": Calls(subprocess.call, ["touch", str(marker)]),
        "import": Calls(importlib.import_module, "antigravity"),
        "getattr": Calls(getattr, "x", "upper"),
        "in a list": [1, [Calls(os.mkdir, str(marker))]],
        "as an argument": Calls(Calls, Calls(os.mkdir, str(marker))),
        "in a state": Restored({"x": Calls(os.mkdir, str(marker))}),
        "as a state": Calls(Restored, 1, state=Calls(os.mkdir, str(marker))),
        "as a key": {Calls(str, Calls(os.mkdir, str(marker))): 1},
        "in a tensor's hooks": Calls(
            torch._utils._rebuild_parameter, torch.zeros(1), False, Calls(os.mkdir, str(marker))
        ),
        "compile": Calls(eval, Calls(compile, touch, "x", "eval")),
        "a torch function": Calls(torch.load, str(marker)),
        "torch.hub": Calls(torch.hub.load, str(marker), "x"),
        "a function of ours": Calls(load_checkpoint, str(marker)),
        "numpy": Calls(np.save, str(marker), 1),
    }


HARMFUL = list(harmful(Path("x")))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("way", ["zip", "old torch format", "pickle 0", "pickle 2", "pickle 5"])
@pytest.mark.parametrize("name", HARMFUL)
def test_nothing_that_a_file_calls_is_run(
    tmp_path: Path, state: State, name: str, way: str
) -> None:
    """The weights beside it are had, where PyTorch reads the format at all."""
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    content = {"model": state, "extra": harmful(marker)[name]}
    if way.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(way[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    if way == "pickle 0":
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    else:
        assert load_checkpoint(path).state.keys() == state.keys()
    assert not marker.exists()
    assert "antigravity" not in sys.modules


OPCODES = {
    "global and reduce": b"cos\nmkdir\n(V{}\ntR.",
    "inst": b"(V{}\nios\nmkdir\n.",
    "obj": b"(cos\nmkdir\nV{}\no.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(V{}\ntR.",
    "build": b"cos\nmkdir\n(dVa\n(V{}\nios\nmkdir\nsb.",
    "newobj": b"\x80\x02cos\nmkdir\n(V{}\nt\x81.",
    "newobj with keywords": b"\x80\x04cos\nmkdir\n(V{}\nt}\x92.",
    "a builtin's method": b"cbuiltins\ngetattr\n(cos\nV\x6d\ntR.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_no_opcode_calls_what_it_names(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "x.pkl"
    path.write_bytes(OPCODES[name].replace(b"{}", str(marker).encode()))
    with path.open("rb") as stream, contextlib.suppress(TypeError):  # a class has no state
        InertUnpickler(stream).load()
    assert not marker.exists()


def test_the_opcodes_above_are_those_that_call(tmp_path: Path) -> None:
    """Read without care they do: all but the two that take classes alone."""
    for name in ("global and reduce", "inst", "obj", "stack global"):
        marker = tmp_path / name
        pickle.loads(OPCODES[name].replace(b"{}", str(marker).encode()))
        assert marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}V__doc__\nVchanged\nstb.",
        b"ccollections\nOrderedDict\n(N}Vcopy\nVchanged\nstb.",
        b"cbuiltins\ndict\n(N}Vcopy\nVchanged\nstb.",
        b"cargparse\nNamespace\n(N}V__doc__\nVchanged\nstb.",
        b"ctorch\nfloat32\n(N}Vchanged\nI1\nstb.",
    ],
)
def test_a_pickle_changes_nothing_of_the_process(pickled: bytes) -> None:
    known = (torch._utils._rebuild_tensor_v2, collections.OrderedDict, dict, argparse.Namespace)
    before = [(one.__doc__, getattr(one, "copy", None)) for one in known]
    stream = io.BytesIO(pickled)
    with contextlib.suppress(TypeError, AttributeError):
        InertUnpickler(stream).load()
    assert [(one.__doc__, getattr(one, "copy", None)) for one in known] == before
    assert not hasattr(torch.float32, "changed")
    assert builtins.dict is dict
