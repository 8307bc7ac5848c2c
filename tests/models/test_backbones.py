"""Backbones: the maps of every stage, with and without a classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made.families import TINY, images_for, random_model

from dynexport.bench import bench_model
from dynexport.bench.timing import Plan
from dynexport.cli import main
from dynexport.conversion import Recipe, convert
from dynexport.errors import CheckpointError, InputError, ModelError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.twin import dense_twin
from dynexport.models import SparseModel, find_family
from dynexport.models.swin import SwinConfig
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify
from dynexport.pytorch.rewrite import rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule, schedule_from_base
from dynexport.verify import verify_model

pytestmark = pytest.mark.slow

BACKBONES = ("swin", "convnext")


DIMS = {"swin": (16, 32, 64, 128), "convnext": (8, 16, 24, 32)}


MAPS = [f"feat_{stage}" for stage in range(4)]


def classifier(family: str) -> dict[str, torch.Tensor]:
    """A tiny classifier's tensors."""
    return dict(random_model(family).state_dict())


def backbone(family: str) -> dict[str, torch.Tensor]:
    """Tensors as a detector's backbone stores them: no classifier, a norm for every map."""
    state = {n: t for n, t in classifier(family).items() if n.split(".")[0] not in ("norm", "head")}
    generator = torch.Generator().manual_seed(1)
    for stage, dim in enumerate(DIMS[family]):
        state[f"norm{stage}.weight"] = 1 + 0.2 * torch.randn(dim, generator=generator)
        state[f"norm{stage}.bias"] = torch.randn(dim, generator=generator)
    return state


def saved(path: Path, state: dict[str, torch.Tensor], img_size: int = 64) -> Path:
    args = {"pruning_loc": [1, 2, 3], "base_rate": 0.7, "input_size": img_size}
    torch.save({"model": state, "args": args}, path)
    return path


def maps_model(path: Path, img_size: int | None = None) -> SparseModel:
    loaded = load_checkpoint(path)
    return build_model(loaded, *identify(loaded, img_size=img_size, task="features"))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("source", [classifier, backbone])
@pytest.mark.parametrize("batch", ["1", "1:2:5"])
def test_maps_of_every_stage_are_exported_and_are_pytorchs(
    name: str, source: Callable[[str], dict[str, torch.Tensor]], batch: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pth", source(name))
    result = convert(Recipe(path, task="features", batch=batch, output=tmp_path / "x.onnx"))
    shapes = {f"feat_{s}": (dim, 16 >> s, 16 >> s) for s, dim in enumerate(DIMS[name])}
    assert result.metadata.outputs == result.proof.outputs == shapes
    assert result.metadata.config["task"] == "features"
    assert result.verification.passed
    assert list(result.verification.errors) == MAPS
    for feature, errors in result.verification.errors.items():
        agreement = result.verification.agreement[feature]
        assert errors.scale > 1.0
        assert errors.max_abs < 2e-5 * errors.scale
        assert agreement is not None
        assert agreement.cosine > 0.99999
        assert agreement.top1 is None
    assert verify_model(result.onnx, checkpoint=path).passed
    model = maps_model(path)
    images = images_for(model, 1 if batch == "1" else 3)
    keep = schedule_from_base(find_family(name).schedule, 0.7, 3)
    with torch.inference_mode():
        expected = rewrite(model, keep)(images).outputs
    with open_runner("onnxruntime", result.onnx) as runner:
        found = runner.run(images.numpy())
    assert list(found) == list(expected) == MAPS
    for feature in MAPS:
        assert found[feature].shape == (len(images), *shapes[feature])
        assert np.abs(found[feature] - expected[feature].numpy()).max() < 1e-4


@pytest.mark.parametrize("size", [50, 91])
def test_maps_of_a_swin_at_any_image_size(size: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "swin.pth", backbone("swin"))
    result = convert(
        Recipe(path, task="features", img_size=size, batch=2, output=tmp_path / "s.onnx")
    )
    assert result.verification.passed
    sides = [-(-size // (4 * 2**stage)) for stage in range(4)]
    assert [shape[1:] for shape in result.metadata.outputs.values()] == [(s, s) for s in sides]


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_of_a_dense_backbone_and_of_the_dense_twin_agree(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", backbone(name))
    sparse = convert(Recipe(path, task="features", batch=2, output=tmp_path / "sparse.onnx"))
    dense = convert(
        Recipe(path, task="features", batch=2, dense=True, output=tmp_path / "dense.onnx")
    )
    assert dense.verification.passed
    assert dense.metadata.nodes == sparse.metadata.nodes_dense
    twin = to_bytes(dense_twin(read_model(sparse.onnx), sparse.metadata.dense_twin))
    images = images_for(random_model(name)).numpy()
    with open_runner("onnxruntime", dense.onnx) as a, open_runner("onnxruntime", twin) as b:
        found, expected = b.run(images), a.run(images)
    assert all(np.allclose(found[feature], expected[feature], atol=1e-4) for feature in MAPS)


@pytest.mark.parametrize("name", BACKBONES)
def test_norms_of_a_backbone_are_its_checkpoints(name: str, tmp_path: Path) -> None:
    state = backbone(name)
    del state["norm1.weight"], state["norm1.bias"]
    model = maps_model(saved(tmp_path / "x.pth", state))
    for stage, norm in enumerate(model.norms):
        dim = DIMS[name][stage]
        weight = torch.ones(dim) if stage == 1 else state[f"norm{stage}.weight"]
        bias = torch.zeros(dim) if stage == 1 else state[f"norm{stage}.bias"]
        assert torch.equal(norm.weight, weight)
        assert torch.equal(norm.bias, bias)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_classifiers_norm_is_that_of_the_last_stage(name: str, tmp_path: Path) -> None:
    state = classifier(name)
    model = maps_model(saved(tmp_path / "x.pth", state))
    assert not any(key.startswith(("head", "norm.")) for key in model.state_dict())
    assert torch.equal(model.norms[3].weight, state["norm.weight"])
    assert torch.equal(model.norms[3].bias, state["norm.bias"])
    maps = list(model(images_for(model)).outputs.values())
    for norm, feature in zip(list(model.norms)[:3], maps[:3], strict=True):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
        assert feature.mean(dim=1).abs().max() < 1e-5
        assert feature.var(dim=1, correction=0).mean() == pytest.approx(1.0, abs=0.01)


def test_a_norm_of_the_last_stage_goes_before_that_of_the_classifier(tmp_path: Path) -> None:
    state = backbone("swin")
    model = maps_model(saved(tmp_path / "x.pth", {**classifier("swin"), **state}))
    assert torch.equal(model.norms[3].weight, state["norm3.weight"])


def test_the_last_map_of_a_swin_is_what_its_classifier_reads(tmp_path: Path) -> None:
    trained, keep = random_model("swin"), KeepSchedule((0.7, 0.5, 0.3))
    model = maps_model(saved(tmp_path / "x.pth", classifier("swin")))
    images = images_for(model)
    with torch.inference_mode():
        feature = rewrite(model, keep)(images).outputs["feat_3"]
        logits = rewrite(trained, keep)(images).logits
        assert torch.allclose(trained.head(feature.mean(dim=(2, 3))), logits, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_training_a_backbone_reaches_every_parameter(name: str) -> None:
    model = random_model(name, dataclasses.replace(TINY[name], task="features")).train()
    output = model(images_for(model, 3))
    assert output.features is None
    shares = torch.stack([mask.mean() for mask in output.tokens.masks]).sum()
    (sum(m.square().mean() for m in output.outputs.values()) + shares).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_in_a_detectors_checkpoint_is_found(name: str, tmp_path: Path) -> None:
    state = backbone(name)
    path = saved(tmp_path / "x.pth", {f"backbone.{key}": value for key, value in state.items()})
    model = maps_model(path)
    assert torch.equal(model.norms[2].bias, state["norm2.bias"])


def test_a_backbone_is_timed_beside_its_twin_and_pytorch(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", backbone("swin"))
    result = convert(Recipe(path, task="features", batch=2, output=tmp_path / "x.onnx"))
    plan = Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0)
    timings = bench_model(result.onnx, plan=plan, threads=1).batches[0].timings
    assert [timing.label.split()[1] for timing in timings] == ["sparse", "dense"] * 2


@pytest.mark.parametrize("name", BACKBONES)
def test_a_checkpoint_without_a_classifier_names_the_task(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", backbone(name))
    for task in (None, "classify"):
        with pytest.raises(CheckpointError) as error:
            identify(load_checkpoint(path), task=task)
        assert str(error.value) == (
            f"{path}: the checkpoint has no classifier (head.weight): it is a backbone, which is "
            "exported with `task` features"
        )


@pytest.mark.parametrize(
    ("name", "task", "choices"),
    [
        ("deit", "features", "classify"),
        ("lvvit", "features", "classify"),
        ("swin", "segment", "classify, features"),
        ("convnext", "", "classify, features"),
    ],
)
def test_a_task_a_family_cannot_do_is_refused(
    name: str, task: str, choices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "x.pth", classifier(name))
    problem = f"{name} models cannot be exported for the task {task!r}: choose from {choices}"
    with pytest.raises(InputError) as error:
        identify(load_checkpoint(path), task=task)
    assert str(error.value) == f"{path}: {problem}"
    with pytest.raises(SystemExit) as left:
        main(["convert", str(path), "--task", task, "-q", "-o", str(tmp_path / "x.onnx")])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {path}: {problem}\n"
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    ("change", "problem"),
    [({"task": "features?"}, "unknown task 'features\\?'"), ({"num_classes": 0}, "no classifier")],
)
def test_impossible_tasks_are_refused(name: str, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        dataclasses.replace(TINY[name], **change)


def without_masks(tmp_path: Path, config: SwinConfig, **args: Any) -> Path:
    """A checkpoint of a Swin as detectors save it: masks are made when it runs."""
    state = random_model("swin", config).state_dict()
    kept = {name: value for name, value in state.items() if not name.endswith("attn_mask")}
    path = tmp_path / "swin.pth"
    torch.save({"model": kept, "args": {"pruning_loc": [1, 2, 3], **args}}, path)
    return path


@pytest.mark.parametrize(("args", "size"), [({"input_size": 64}, 64), ({}, 224)])
def test_a_swin_without_masks_has_the_size_it_was_trained_at(
    args: dict[str, Any], size: int, tmp_path: Path
) -> None:
    loaded = load_checkpoint(without_masks(tmp_path, TINY["swin"], **args))
    assert identify(loaded, task="features")[1].img_size == (size, size)


def test_a_swin_trained_on_padded_images_keeps_its_size(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY["swin"], img_size=50)
    path = tmp_path / "swin.pth"
    args = {"pruning_loc": [1, 2, 3], "input_size": 50}
    torch.save({"model": random_model("swin", config).state_dict(), "args": args}, path)
    assert identify(load_checkpoint(path))[1] == config
    args["input_size"] = 224  # contradicts the masks
    torch.save({"model": random_model("swin", config).state_dict(), "args": args}, path)
    assert identify(load_checkpoint(path))[1].img_size == (64, 64)


def test_a_backbone_called_by_its_name_is_told_of_the_task(tmp_path: Path) -> None:
    model = find_family("convnext").model(find_family("convnext").variants["convnext-t"])
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    torch.save({"model": state}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="exported with `task` features"):
        identify(load_checkpoint(tmp_path / "c.pth"), model="convnext-t")
