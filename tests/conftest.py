"""Tiny models built in code, and the checkpoints and ONNX files made of them."""

from __future__ import annotations

import argparse
import gc
import json
import signal
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from made.cache import Cache, asked_once, read_torchlib_once
from made.tiny import families_kept
from torch import nn

from dynexport.conversion import Conversion, Recipe, convert
from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.pytorch import export

GOLDEN = Path(__file__).parent / "golden"

TINY = DeiTConfig(
    embed_dim=64,
    num_heads=1,
    depth=4,
    prune_at=(1, 2, 3),
    patch_size=4,
    img_size=28,
    num_classes=10,
)
"""49 tokens, three stages: 0.7 keeps 34, 24, 16."""

ARGS = argparse.Namespace(
    model="deit-tiny", base_rate=0.7, input_size=28, pruning_loc=[1, 2, 3], device="cuda"
)
"""What the public code records beside the weights."""


EXPORTED = pytest.StashKey[Cache]()


def pytest_configure(config: pytest.Config) -> None:
    """A shell's background job ignores SIGINT, and so would the commands that tests interrupt."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    beside = getattr(config, "cache", None)  # pytest's, unless it was switched off
    folder = Path(tempfile.mkdtemp()) if beside is None else beside.mkdir("exported")
    config.stash[EXPORTED] = Cache(folder)
    read_torchlib_once()
    if not hasattr(config, "workerinput"):  # one of many workers, who share the folder
        config.stash[EXPORTED].prune()


@pytest.fixture(autouse=True)
def unchanged_registry() -> Iterator[None]:
    """Families that a test loads go with it."""
    with families_kept():
        yield


def pytest_collection_finish() -> None:
    """What was imported stays, so the garbage collector need not look at it again in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def exports(pytestconfig: pytest.Config) -> Cache:
    """What exporters made, for tests that ask one themselves."""
    return pytestconfig.stash[EXPORTED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """For tests and for the fixtures they are the first to need: models are exported once, and
    ONNX Runtime takes one core, as PyTorch does by OMP_NUM_THREADS; workers have the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", on_one_core(onnxruntime.SessionOptions))
        if item.get_closest_marker("exporter") is None:
            kept = item.config.stash[EXPORTED]
            patch.setattr(export, "_translate", asked_once(export._translate, kept))
        return (yield)


def on_one_core(options: Callable[[], Any]) -> Callable[[], Any]:
    """Options of a session that asks for no number of threads: one, which waits for no other."""

    def make() -> Any:
        made = options()
        made.intra_op_num_threads = 1
        return made

    return make


def random_model(config: Any = TINY, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """A training form whose scores and logits are of order one, so that errors show."""
    torch.manual_seed(seed)
    model = DynamicDeiT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
            elif "norm" in name or "in_conv.0" in name:
                parameter.normal_(float(name.endswith("weight")), 0.1)
            else:
                parameter.normal_(0, scale)
    return model


def save_checkpoint(path: Path, model: nn.Module, **extra: Any) -> Path:
    """As the public code saves it."""
    torch.save({"model": model.state_dict(), "args": ARGS, "epoch": 29, **extra}, path)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    return random_model()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: nn.Module) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth", tiny_model)


@pytest.fixture(scope="session")
def tiny_conversion(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Conversion:
    """The tiny checkpoint at 0.7, dynamic batch 1:3:5; read-only: tests copy what they change."""
    output = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return convert(Recipe(tiny_checkpoint, ratio=0.7, batch="1:3:5", output=output))


@dataclass(frozen=True)
class GoldenCase:
    """Recorded outputs of the reference implementation, and the weights they belong to.

    state: the checkpoint's tensors; images float32 (B, 3, H, W), normalised; logits
    (B, classes); kept: per stage int64 (B, K), ascending.
    """

    name: str
    ratio: float
    state: dict[str, torch.Tensor]
    images: torch.Tensor
    logits: torch.Tensor
    kept: tuple[torch.Tensor, ...]


def golden_case(name: str) -> GoldenCase:
    """Rebuild a case: weights and input are pure functions of names, shapes and a seed."""
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        recorded = {key: torch.from_numpy(arrays[key]) for key in arrays}
    state = {
        key: recorded.get(f"buffer:{key}", golden_tensor(key, shape, dtype))
        for key, shape, dtype in facts["state"]
    }
    rng = np.random.default_rng(facts["input_seed"])
    batch, size = facts["batch"], facts["img_size"]
    coarse = torch.from_numpy(rng.normal(0, 1, (batch, 3, 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noise = torch.from_numpy(rng.normal(0, 1, (batch, 3, size, size)).astype(np.float32))
    kept = tuple(recorded[key].long() for key in sorted(recorded) if key.startswith("kept"))
    images = smooth + 0.3 * noise
    return GoldenCase(name, facts["ratio"], state, images, recorded["logits"], kept)


def golden_tensor(name: str, shape: list[int], dtype: str) -> torch.Tensor:
    """The recorded models' weight of this name."""
    if dtype.startswith("int"):
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    tables = {"cls_token", "pos_embed", "relative_position_bias_table"}
    if leaf == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif "gamma" in leaf:
        values = rng.uniform(0.2, 0.8, shape)
    else:
        centre, spread = 0.0, 1.2 / np.sqrt(np.prod(shape[1:]))
        if leaf == "running_mean" or len(shape) == 1:
            centre, spread = float(leaf == "weight"), 0.1
        elif leaf in tables:
            spread = 0.5
        values = rng.normal(centre, spread, shape)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


CASES = ["deit-s_0.7", "deit-256_0.7", "lvvit-s_0.7", "swin-t_0.7", "convnext-t_0.7"]


@pytest.fixture(scope="session", params=CASES)
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    return golden_case(request.param)
