"""Every family, tiny: proved against the masked form, converted, at other sizes, as backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynexport.bench import bench_model
from dynexport.bench.timing import Plan
from dynexport.cli import main
from dynexport.conversion import Recipe, convert
from dynexport.errors import CheckpointError, InputError, ModelError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.functions import inline_functions
from dynexport.graph.twin import dense_twin
from dynexport.models import SparseModel, find_family
from dynexport.models.convnext import ConvNeXtConfig
from dynexport.models.deit import DeiTConfig
from dynexport.models.lvvit import LVViTConfig
from dynexport.models.swin import SwinConfig
from dynexport.models.windows import window_order
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify
from dynexport.pytorch.rewrite import prove, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule, schedule_from_base
from dynexport.verify import verify_model

TINY: dict[str, Any] = {
    "deit": DeiTConfig(64, 1, 4, (1, 2, 3), patch_size=8, img_size=32, num_classes=5),
    "lvvit": LVViTConfig(64, 1, 4, (1, 2, 3), 8, 32, 5, stem_dim=8),
    "swin": SwinConfig(
        16, (2, 2, 4, 2), (1, 2, 2, 4), (1, 2, 3), (4, 4, 4, 2), img_size=64, num_classes=5
    ),
    "convnext": ConvNeXtConfig((8, 16, 24, 32), (1, 1, 4, 1), (1, 2, 3), 64, 5),
}


def random_model(family: str, config: Any = None) -> SparseModel:
    """A training form whose scores and logits are of order one."""
    torch.manual_seed(0)
    model = find_family(family).model(config or TINY[family]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
            else:
                parameter.normal_(float("norm" in name and name.endswith("weight")), 0.2)
    return model


def images_for(model: SparseModel, batch: int = 2) -> torch.Tensor:
    size = model.config.img_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def checkpoint(family: str, tmp_path: Path) -> Path:
    path = tmp_path / f"{family}.pth"
    args = {"pruning_loc": [1, 2, 3], "base_rate": 0.7, "input_size": TINY[family].img_size}
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
    order, back = window_order(8, 4, 2)
    assert sorted(order.tolist()) == list(range(64))
    assert torch.equal(order[back], torch.arange(64))
    order, back = window_order(6, 4, 2)
    assert (order == 36).sum() == 64 - 36
    assert torch.equal(order[back], torch.arange(36))


@pytest.mark.parametrize(("name", "size"), [("deit", 30), ("lvvit", 36), ("convnext", 48)])
def test_an_image_size_that_does_not_fit_is_refused(name: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": random_model(name).state_dict(), "args": {"pruning_loc": [1, 2, 3]}}, path)
    with pytest.raises(CheckpointError, match=f"image size {size} is no multiple of"):
        identify(load_checkpoint(path), img_size=size)


# ---------------------------------------------------------------- backbones


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
    assert identify(loaded, task="features")[1].img_size == size


def test_a_swin_trained_on_padded_images_keeps_its_size(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY["swin"], img_size=50)
    path = tmp_path / "swin.pth"
    args = {"pruning_loc": [1, 2, 3], "input_size": 50}
    torch.save({"model": random_model("swin", config).state_dict(), "args": args}, path)
    assert identify(load_checkpoint(path))[1] == config
    args["input_size"] = 224  # contradicts the masks
    torch.save({"model": random_model("swin", config).state_dict(), "args": args}, path)
    assert identify(load_checkpoint(path))[1].img_size == 64


def test_a_backbone_called_by_its_name_is_told_of_the_task(tmp_path: Path) -> None:
    model = find_family("convnext").model(find_family("convnext").variants["convnext-t"])
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    torch.save({"model": state}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="exported with `task` features"):
        identify(load_checkpoint(tmp_path / "c.pth"), model="convnext-t")
