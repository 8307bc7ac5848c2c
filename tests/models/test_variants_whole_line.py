"""What models may have beside the published ones, or lack: from the checkpoint to the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made.tiny import Tiny, build, convert_tiny, take_batches, write
from made.variants import WHOLE_LINE

from dynexport.bench import bench_model
from dynexport.bench.timing import Plan
from dynexport.conversion import Recipe, convert
from dynexport.engine import build_engine
from dynexport.graph.selection import add_kept_outputs
from dynexport.graph.twin import dense_twin
from dynexport.images import synthetic_images
from dynexport.precision import Precision
from dynexport.pytorch.rewrite import rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import Selection
from dynexport.verify import verify_model
from dynexport.visualize import visualize_images

pytestmark = pytest.mark.thorough

RATIOS = (0.7, 0.5, 0.3)

LEADING = {"distilled": 2, "dinov2": 5, "timm-reg-gap": 3, "no-leading": 0, "lvvit": 1}


@pytest.fixture(scope="module", params=WHOLE_LINE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(name)


@pytest.fixture(scope="module")
def tiny(name: str, folder: Path) -> Tiny:
    """Proved and verified as it was converted; the folder holds its checkpoint and its file."""
    family, changes = WHOLE_LINE[name]
    return convert_tiny(folder, family, RATIOS, batch="1:3:5", **changes)


@pytest.fixture(scope="module")
def onnx(tiny: Tiny, folder: Path) -> Path:
    return folder / f"{tiny.metadata.family}.onnx"


def test_the_file_is_what_the_model_is(name: str, tiny: Tiny, onnx: Path) -> None:
    facts, (_, changes) = tiny.metadata, WHOLE_LINE[name]
    assert {key: facts.config[key] for key in changes} == changes
    if name in LEADING:
        assert facts.selection == Selection(nested=True, leading=LEADING[name])
    initializers = set(tiny.graph.graph.initializers.values())
    assert all(set(node.inputs) - initializers for node in tiny.graph.graph), "computes constants"
    report = verify_model(onnx, checkpoint=onnx.with_suffix(".pth"))
    assert report.passed
    assert [stage.overlap for stage in report.stages] == [1.0, 1.0, 1.0]


@torch.inference_mode()
def test_its_outputs_and_positions_are_pytorchs(tiny: Tiny) -> None:
    graph = tiny.graph.clone()
    add_kept_outputs(graph, tiny.metadata)
    images = tiny.bundle.inputs(tiny.metadata.preprocessing)[:5]
    with open_runner("onnxruntime", graph) as runner:
        found = runner.run(images)
    expected = tiny.lean(torch.from_numpy(images))
    assert np.abs(found["logits"] - expected.logits.numpy()).max() < 2e-5
    for stage, kept in enumerate(expected.tokens.kept):
        assert np.array_equal(np.sort(found[f"kept_{stage}"]), np.sort(kept.numpy()))


@torch.inference_mode()
def test_its_dense_twin_is_the_dense_model(name: str, tiny: Tiny) -> None:
    trained = build(tiny.metadata.family, 0, **WHOLE_LINE[name][1])
    images = tiny.bundle.inputs(tiny.metadata.preprocessing)[:5]
    twin = dense_twin(tiny.graph, tiny.metadata.dense_twin)
    assert twin.graph.num_nodes() == tiny.metadata.nodes_dense
    with open_runner("onnxruntime", twin) as runner:
        found = runner.run(images)["logits"]
    expected = rewrite(trained, None)(torch.from_numpy(images)).logits.numpy()
    assert np.abs(found - expected).max() < 2e-5


def test_it_is_timed_beside_its_twin_and_pytorch(onnx: Path, tiny: Tiny) -> None:
    plan = Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0)
    timings = bench_model(onnx, plan=plan, threads=1).batches[0].timings
    assert [timing.label.split()[1] for timing in timings] == ["sparse", "dense"] * 2
    assert tiny.metadata.macs_sparse < tiny.metadata.macs_dense


def test_it_is_drawn(onnx: Path, tiny: Tiny, tmp_path: Path) -> None:
    pictures = tmp_path / "drawn.npz"
    np.savez(pictures, images=tiny.bundle.images)
    drawn = visualize_images(onnx, pictures, tmp_path / "kept.png", scores=True, count=2)
    assert (tmp_path / "kept.png").stat().st_size > 1000
    assert drawn.keep_counts == tiny.metadata.keep_counts


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_is_typed(precision: str, onnx: Path, tiny: Tiny, tmp_path: Path) -> None:
    images = tmp_path / "drawn.npz"
    np.savez(images, images=synthetic_images(32, tiny.metadata.preprocessing.img_size, seed=1))
    how = Precision(precision, calibration_data=images, methods=("min-max",))
    result = convert(
        Recipe(
            onnx.with_suffix(".pth"),
            ratios=RATIOS,
            batch="1:3:5",
            precision=how,
            output=tmp_path / "typed.onnx",
        )
    )
    assert result.verification.passed


@pytest.mark.parametrize("batch", ["1:3:5", "2"])
def test_an_engine_is_built_of_it(batch: str, tiny: Tiny, tmp_path: Path) -> None:
    made = take_batches(tiny, batch)
    path = write(tmp_path, made.graph, made.bundle)
    built = build_engine(path, edition="tensorrt-rtx", output=tmp_path / "tiny.engine")
    assert built.facts.batches == (batch,)
    assert (tmp_path / "tiny.engine").stat().st_size > 10_000
