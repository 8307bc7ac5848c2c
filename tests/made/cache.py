"""What is slow to make and always the same, made once for all tests, workers and runs.

That is PyTorch's exporter, whose three seconds are most of a tiny model's conversion. A test that
is about the exporter itself says so, ``@pytest.mark.exporter``, and has the real one.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import inspect
import io
import os
import pickle
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript.values import TracedOnnxFunction
from torch import Tensor, nn

import dynexport

LARGEST = 1 << 30
"""Bytes that are left on disk from one run to the next."""

PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")
"""Whose version changes what the exporter makes."""

Translate = Callable[[nn.Module, Tensor, list[str], int], ir.Model]


class Cache:
    """Files by the hash of all that they are made of; workers and runs side by side share them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gives, called once for a key: a second worker waits for the first."""
        path = self.folder / key
        with open(self.folder / f"{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                os.utime(path)
                return path.read_bytes()
            content = make()
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_bytes(content)
            draft.replace(path)
        return content

    def prune(self, largest: int = LARGEST) -> None:
        """Remove what was not used for longest, until the rest is at most so many bytes."""
        for left in self.folder.glob("*.lock"):
            left.unlink()
        room = largest
        newest = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest:
            room -= path.stat().st_size
            if room < 0:
                path.unlink()


def asked_once(translate: Translate, kept: Cache) -> Translate:
    """PyTorch's exporter, or what it made of the same module before."""

    def look_up(module: nn.Module, example: Tensor, outputs: list[str], opset: int) -> ir.Model:
        key = digest_of(module, tuple(example.shape), outputs, opset)
        if key is None:
            return translate(module, example, outputs, opset)

        def make() -> bytes:
            graph = translate(module, example, outputs, opset)
            return ir.to_proto(graph).SerializeToString()

        return ir.from_proto(onnx.load_from_string(kept.get(key, make)))

    return look_up


def read_torchlib_once() -> None:
    """onnxscript parses the sources of all its operators in every export, which takes a second."""
    parse = TracedOnnxFunction.function_ir.fget
    assert parse is not None
    TracedOnnxFunction.function_ir = property(cache(parse))


def digest_of(module: nn.Module, *others: Any) -> str | None:
    """A hash of a module's code, structure and weights; None where its code cannot be read."""
    told = io.BytesIO()
    try:
        _Told(told).dump((module, others, sources_of(module)))
    except (pickle.PicklingError, AttributeError, TypeError, OSError, RecursionError):
        return None
    return hashlib.sha256(told.getvalue()).hexdigest()


class _Told(pickle.Pickler):
    """Writes equal values equally: tensors by their content, sets in order, none by identity."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=4)
        self.fast = True

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            content = value.detach().contiguous().view(-1).view(torch.uint8).numpy()
            digest = hashlib.sha256(content).hexdigest()
            return f"{value.dtype} {tuple(value.shape)} {value.requires_grad} {digest}"
        if isinstance(value, (set, frozenset)):
            return f"{type(value).__name__} {sorted(map(repr, value))}"
        return None


def sources_of(module: nn.Module) -> tuple[str, ...]:
    """Digests of the code that a module's graph is made by: its classes', ours, the packages'."""
    kinds = {type(part) for part in module.modules()}
    files = {inspect.getfile(kind) for kind in kinds if not kind.__module__.startswith("torch.")}
    return (*sorted(map(_digest, files)), our_code(), *versions())


def digest_of_files(files: Iterable[str], *others: Any) -> str:
    """A hash of code, of the packages that export, and of what else something is made of."""
    told = repr((*map(_digest, files), *versions(), *others))
    return hashlib.sha256(told.encode()).hexdigest()


def versions() -> tuple[str, ...]:
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


@cache
def our_code() -> str:
    """A digest of every module of dynexport, as installed."""
    roots = map(Path, dynexport.__path__)
    files = sorted(path for root in roots for path in root.rglob("*.py"))
    return hashlib.sha256("".join(map(_digest, map(str, files))).encode()).hexdigest()


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
