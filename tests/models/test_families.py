"""Every family, tiny: proved against the masked form, converted, at other sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from made.families import TINY, images_for, random_model

from dynexport.conversion import Recipe, convert
from dynexport.errors import CheckpointError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.functions import inline_functions
from dynexport.graph.twin import dense_twin
from dynexport.models import find_family
from dynexport.models.windows import window_order
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify
from dynexport.pytorch.rewrite import prove, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule, schedule_from_base
from dynexport.verify import verify_model

pytestmark = pytest.mark.slow


@pytest.fixture
def checkpoint(family: str, tmp_path: Path) -> Path:
    path = tmp_path / f"{family}.pth"
    args = {"pruning_loc": [1, 2, 3], "base_rate": 0.7, "input_size": list(TINY[family].img_size)}
    torch.save({"model": random_model(family).state_dict(), "args": args}, path)
    return path


@pytest.mark.parametrize("ratios", [(0.7, 0.5, 0.3), (1.0, 1.0, 1.0), (0.2, 0.1, 0.07)])
def test_inference_form_is_proved(family: str, ratios: tuple[float, ...]) -> None:
    model, keep = random_model(family), KeepSchedule(ratios)
    proof = prove(model, rewrite(model, keep), keep, images_for(model, 3))
    assert proof.scale > 0.1
    assert proof.max_abs_error < 2e-5 * max(1.0, proof.scale)


def test_dense_twin_is_proved(family: str) -> None:
    model = random_model(family)
    proof = prove(model, rewrite(model, None), None, images_for(model))
    assert proof.max_abs_error < 2e-5 * max(1.0, proof.scale)


def test_training_step_reaches_every_parameter(family: str) -> None:
    model = random_model(family).train()
    output = model(images_for(model, 3))
    shares = torch.stack([mask.mean() for mask in output.tokens.masks]).sum()
    (output.logits.square().mean() + output.features.square().mean() + shares).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_configuration_is_read_off_the_tensors(family: str, checkpoint: Path) -> None:
    assert identify(load_checkpoint(checkpoint)) == (find_family(family), TINY[family])


@pytest.mark.parametrize("batch", ["1", "2", "1:2:5"])
def test_conversion_at_every_kind_of_batch(checkpoint: Path, batch: str) -> None:
    result = convert(
        Recipe(checkpoint, ratio=0.7, batch=batch, output=checkpoint.with_suffix(".onnx"))
    )
    assert result.verification.passed
    assert all(stage.overlap == 1.0 for stage in result.verification.stages)
    assert verify_model(result.onnx, checkpoint=checkpoint).passed


def test_dense_conversion(checkpoint: Path) -> None:
    result = convert(Recipe(checkpoint, dense=True, output=checkpoint.with_suffix(".onnx")))
    assert result.metadata.macs_sparse == result.metadata.macs_dense
    assert result.metadata.nodes == result.metadata.nodes_dense


@pytest.mark.parametrize("ratios", ["0.7,0.5,0.3", "1,1,1"])
def test_the_dense_twin_by_graph_edit_is_the_dense_model(
    family: str, checkpoint: Path, ratios: str
) -> None:
    result = convert(
        Recipe(checkpoint, ratios=ratios, batch=2, output=checkpoint.with_suffix(".onnx"))
    )
    facts = result.metadata
    twin = dense_twin(inline_functions(read_model(result.onnx)), facts.dense_twin)
    assert twin.graph.num_nodes() == facts.nodes_dense
    assert not {node.op_type for node in twin.graph} & {"TopK", "GatherND"}
    model = random_model(family)
    images = images_for(model)
    with torch.inference_mode():
        expected = rewrite(model, None)(images).logits.numpy()
    with open_runner("onnxruntime", to_bytes(twin)) as runner:
        found = runner.run(images.numpy())["logits"]
    assert np.abs(found - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("size", [96, 160])
def test_another_image_size(family: str, checkpoint: Path, size: int) -> None:
    loaded = load_checkpoint(checkpoint)
    found, config = identify(loaded, img_size=size)
    assert config == dataclasses.replace(TINY[family], img_size=size)
    model = build_model(loaded, found, config)
    keep = schedule_from_base(found.schedule, 0.7, 3)
    proof = prove(model, rewrite(model, keep), keep, images_for(model))
    assert proof.max_abs_error < 2e-5 * max(1.0, proof.scale)


@pytest.mark.parametrize("size", [50, 72, 91])
def test_swin_at_any_image_size(size: int, tmp_path: Path) -> None:
    path = tmp_path / "swin.pth"
    args = {"pruning_loc": [1, 2, 3], "base_rate": 0.7}
    torch.save({"model": random_model("swin").state_dict(), "args": args}, path)
    result = convert(Recipe(path, img_size=size, batch=2, output=tmp_path / "swin.onnx"))
    assert result.verification.passed
    assert result.metadata.num_tokens == (-(-size // 16)) ** 2


def test_swin_padding_changes_no_size_that_windows_fill() -> None:
    """Whole windows take no padding: the map at 64 pixels equals the reference's layout."""
    order, back = window_order((8, 8), 4, 2)
    assert sorted(order.tolist()) == list(range(64))
    assert torch.equal(order[back], torch.arange(64))
    order, back = window_order((6, 6), 4, 2)
    assert (order == 36).sum() == 64 - 36
    assert torch.equal(order[back], torch.arange(36))


@pytest.mark.parametrize(("name", "size"), [("deit", 30), ("lvvit", 36), ("convnext", 48)])
def test_an_image_size_that_does_not_fit_is_refused(name: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": random_model(name).state_dict(), "args": {"pruning_loc": [1, 2, 3]}}, path)
    with pytest.raises(CheckpointError, match=f"image size {size} is no multiple of"):
        identify(load_checkpoint(path), img_size=size)
