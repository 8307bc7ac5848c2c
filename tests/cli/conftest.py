"""The command line, asked in this process."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made.command_line import ODD, Ran, Run
from made.terminals import Ask
from torch import nn

from dynexport.cli import main
from dynexport.conversion import Conversion


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run the command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return left.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, in an empty folder; an exception fails the test."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def call(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Ran(left.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def exported(tmp_path: Path, tiny_conversion: Conversion) -> Path:
    """A copy of the tiny ONNX file and its bundle, to be changed."""
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copy(tiny_conversion.onnx, folder / "tiny model.onnx")
    shutil.copy(tiny_conversion.reference, folder / "tiny model.reference.npz")
    return folder / "tiny model.onnx"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: nn.Module) -> Callable[..., Path]:
    """Writes the tiny checkpoint with other arguments or changed tensors."""

    def write(args: dict[str, Any], **changed: torch.Tensor) -> Path:
        state = {**tiny_model.state_dict(), **changed}
        torch.save({"model": state, "args": argparse.Namespace(**args)}, tmp_path / "c.pth")
        return tmp_path / "c.pth"

    return write
