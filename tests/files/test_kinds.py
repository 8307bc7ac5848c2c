"""Every command with every wrong kind of file: it is called what it is, and what to do is said."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dynexport.cli import main
from dynexport.conversion import Conversion
from dynexport.errors import CheckpointError, InputError
from dynexport.files import kinds
from dynexport.files.kinds import ADVICE, kind_of
from dynexport.inspection import inspect_file
from dynexport.pytorch import require_convert_extras

pytestmark = pytest.mark.slow

FILES: dict[str, str | None] = {
    "tiny.pth": kinds.CHECKPOINT,
    "old.pth": kinds.CHECKPOINT,
    "weights.safetensors": kinds.CHECKPOINT,
    "tiny.onnx": kinds.ONNX,
    "tiny.reference.npz": kinds.BUNDLE,
    "images.npz": kinds.ARRAYS,
    "one.npy": kinds.ARRAY,
    "tiny.engine": kinds.ENGINE,
    "tiny.engine.json": kinds.SIDECAR,
    "script.pt": kinds.SCRIPT,
    "exported.pt2": kinds.PROGRAM,
    "model.safetensors.index.json": kinds.INDEX,
    "other.json": kinds.JSON,
    "code.zip": kinds.ARCHIVE,
    "packed.pth.gz": kinds.PACKED,
    "packed.tar": kinds.PACKED,
    "picture.png": kinds.PICTURE,
    "picture.jpg": kinds.PICTURE,
    "page.pth": kinds.PAGE,
    "pointer.pth": kinds.POINTER,
    "empty.pth": None,
    "text.pth": None,
}
"""What lies in the folder, and the kind of each; None: no kind that is known, or damaged."""

COMMANDS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "inspect": (("inspect", "FILE"), "a checkpoint, an ONNX file or an engine"),
    "convert": (("convert", "FILE"), kinds.CHECKPOINT),
    "sweep": (("sweep", "FILE", "--ratios", "0.7"), kinds.CHECKPOINT),
    "verify": (("verify", "FILE"), kinds.ONNX),
    "check": (("check", "FILE"), kinds.ONNX),
    "optimize": (("optimize", "FILE"), kinds.ONNX),
    "build": (("build", "FILE"), kinds.ONNX),
    "bench": (("bench", "FILE"), kinds.ONNX),
    "visualize": (("visualize", "FILE", "images.npz"), kinds.ONNX),
    "a checkpoint to verify with": (
        ("verify", "tiny.onnx", "--checkpoint", "FILE"),
        "a checkpoint",
    ),
    "a bundle": (("verify", "tiny.onnx", "--reference", "FILE"), kinds.BUNDLE),
    "an engine": (("verify", "tiny.onnx", "--engine", "FILE"), kinds.ENGINE),
    "an engine to time": (("bench", "--engine", "FILE"), kinds.ENGINE),
    "images": (("verify", "tiny.onnx", "--data", "FILE"), None),
    "images to calibrate on": (
        ("convert", "tiny.pth", "--precision", "int8", "--calibration-data", "FILE"),
        None,
    ),
    "a picture": (("visualize", "tiny.onnx", "FILE"), kinds.PICTURE),
}
"""What is run, and the kind it expects; None: images, which are not one file."""

TAKEN = {
    "convert": {kinds.SCRIPT, kinds.INDEX},
    "sweep": {kinds.SCRIPT, kinds.INDEX},
    "a checkpoint to verify with": {kinds.SCRIPT, kinds.INDEX},
    "inspect": {kinds.CHECKPOINT, kinds.SCRIPT, kinds.INDEX, kinds.ONNX, kinds.ENGINE},
    "images": {kinds.BUNDLE, kinds.ARRAYS},
    "images to calibrate on": {kinds.BUNDLE, kinds.ARRAYS},
    "a picture": {kinds.BUNDLE, kinds.ARRAYS},
    "a bundle": {kinds.ARRAY},
}
"""Kinds that a command takes as well, or takes for a damaged file of its own."""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_conversion: Conversion, tiny_checkpoint: Path
) -> Path:
    """One file of every kind."""
    path = tmp_path_factory.mktemp("kinds")
    for file in (tiny_conversion.onnx, tiny_conversion.reference, tiny_checkpoint):
        shutil.copy(file, path)
    weights = {"weight": torch.zeros(2)}
    torch.save(weights, path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(weights, path / "weights.safetensors")
    np.savez(path / "images.npz", images=np.zeros((1, 28, 28, 3), np.uint8), labels=np.zeros(1))
    np.save(path / "one.npy", np.zeros(3))
    (path / "tiny.engine").write_bytes(b"ftrt\0\0\0\0" + bytes(100))
    (path / "tiny.engine.json").write_text('{"format": 1, "flavour": "x", "engine_sha256": "0"}')
    program = nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(program, torch.zeros(1, 2)), path / "script.pt")
    torch.export.save(torch.export.export(program, (torch.zeros(1, 2),)), path / "exported.pt2")
    index = {"metadata": {}, "weight_map": {}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "other.json").write_text('{"a": 1}')
    shutil.make_archive(str(path / "code"), "zip", Path(__file__).parent, Path(__file__).name)
    for name in ("picture.png", "picture.jpg"):
        Image.new("RGB", (28, 28)).save(path / name)
    (path / "page.pth").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    (path / "packed.pth.gz").write_bytes(gzip.compress(b"epoch,loss"))
    with tarfile.open(path / "packed.tar", "w") as packed:
        packed.add(path / "page.pth", "page.pth")
    (path / "empty.pth").write_bytes(b"")
    (path / "text.pth").write_text("epoch,loss\n")
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_kind_of_a_file_is_told_by_its_content(folder: Path, tmp_path: Path, name: str) -> None:
    assert kind_of(folder / name) == FILES[name]
    assert kind_of(Path(shutil.copy(folder / name, tmp_path / "other.name"))) == FILES[name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_the_wrong_kind_is_called_what_it_is(
    folder: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    words, expected = COMMANDS[command]
    before = sorted(folder.iterdir())
    for name, kind in FILES.items():
        if kind in (None, expected) or kind in TAKEN.get(command, ()):
            continue
        with pytest.raises(SystemExit) as left:
            main([name if word == "FILE" else word for word in words])
        told = capsys.readouterr().err.splitlines()[-1]
        assert left.value.code == 2, told
        not_that = ", no folder and no .npz" if expected is None else f", not {expected}: "
        assert told.startswith(f"error: {name} is {kind}{not_that}"), told
        assert "dynexport's own" not in told
        if expected and kind in ADVICE:
            assert told.partition(": ")[2].split(": ")[1].startswith(ADVICE[str(kind)][:12]), told
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("cut", [30, 0.5, -30])
@pytest.mark.parametrize("name", ["tiny.pth", "tiny.onnx", "images.npz", "weights.safetensors"])
def test_a_file_that_was_cut_short_keeps_its_kind(
    folder: Path, tmp_path: Path, name: str, cut: float
) -> None:
    whole = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * cut) if cut == 0.5 else int(cut)])
    assert kind_of(tmp_path / name) in (FILES[name], None if cut == 30 else FILES[name])


def test_the_kind_comes_before_what_is_not_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch would not make a checkpoint of an ONNX file."""
    find: Callable[..., object] = lambda name, *_: None if name == "torch" else find  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", find)
    with pytest.raises(CheckpointError, match=r"tiny\.onnx is an ONNX file, not a checkpoint"):
        require_convert_extras(folder / "tiny.onnx")
    with pytest.raises(InputError, match=r"npz is a reference bundle, not a checkpoint, an ONNX"):
        inspect_file(folder / "tiny.reference.npz")
    assert inspect_file(folder / "tiny.onnx")["kind"] == "onnx"


def test_inspect_goes_by_content(folder: Path, tmp_path: Path) -> None:
    for name, told in (("tiny.pth", "checkpoint"), ("tiny.onnx", "onnx")):
        for suffix in (".onnx", ".pth", ".bin", ""):
            there = Path(shutil.copy(folder / name, tmp_path / f"copy{suffix}"))
            assert inspect_file(there)["kind"] == told
