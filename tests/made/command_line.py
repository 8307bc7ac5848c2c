"""What the command line gave, and files to give it: changed, foreign, named oddly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

ODD = "with späces, 模型"
"""A folder name that quoting and encoding must survive."""


@dataclass(frozen=True)
class Ran:
    code: object
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines on stderr that do not tell of progress."""
        return [line for line in self.err.splitlines() if not line.startswith("... ")]

    @property
    def json(self) -> Any:
        """All of stdout as one value of strict JSON."""
        return json.loads(self.out, parse_constant=pytest.fail)


Run = Callable[..., Ran]


def files_in(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder, and what a file holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(ran: Ran, problem: str, code: int = 2) -> None:
    """One sentence on stderr, nothing on stdout."""
    assert ran.code == code
    assert ran.out == ""
    assert len(ran.errors) == 1, ran.err
    assert ran.errors[0].startswith("error: ")
    assert problem in ran.errors[0]
    assert "Traceback" not in ran.err


def command_line(value: object) -> str:
    """The id of a case: its arguments as typed."""
    return " ".join(value) if isinstance(value, tuple) else ""


def change_weight(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Rewrite one initializer of an ONNX file."""
    model = onnx.load(str(path))
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    onnx.save(model, str(path))


def foreign_onnx(folder: Path) -> Path:
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "n"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, "n"])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "foreign", [shape], [other])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "foreign.onnx"
    )
    return folder / "foreign.onnx"
