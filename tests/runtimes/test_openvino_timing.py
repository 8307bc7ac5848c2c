"""OpenVINO timed beside ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from made.in_openvino import images_for
from made.tiny import Tiny

from dynexport.bench import bench_model
from dynexport.bench.layer_groups import GROUPS
from dynexport.bench.timing import Plan
from dynexport.formats.onnx_file import to_bytes
from dynexport.runtimes import LayerRunner, open_runner

pytestmark = pytest.mark.slow

FORMS = ("sparse", "dense")


BRIEFLY = Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0)


def test_it_is_timed_beside_onnx_runtime(deit: Tiny, folder: Path) -> None:
    result = bench_model(
        folder / "deit.onnx",
        backends=["openvino", "onnxruntime"],
        threads=1,
        pytorch=False,
        profile=True,
        plan=BRIEFLY,
    )
    labels = [f"{name} {form}" for name in ("openvino", "onnxruntime") for form in FORMS]
    assert [timing.label for timing in result.batches[0].timings] == labels
    assert [gain.runtime for gain in result.batches[0].gains] == ["openvino", "onnxruntime"]
    assert list(result.layers) == labels
    sparse, dense = result.layers["openvino sparse"], result.layers["openvino dense"]
    assert tuple(sparse) == GROUPS
    assert all(sparse[group] > 0 for group in GROUPS)
    assert dense["predictor"] < sparse["predictor"]


def test_layers_are_timed_where_that_was_asked_for(deit: Tiny) -> None:
    with open_runner("openvino", to_bytes(deit.graph), threads=1, profile=True) as runner:
        assert isinstance(runner, LayerRunner)
        for _ in range(3):
            runner.run(images_for(deit, 3))
        times = runner.layers()
    assert {"blocks.0.attn.q/Add", "blocks.0.mlp.fc2/Add", "score_predictor.0/TopK"} <= set(times)
    assert sum(times.values()) > 0
    assert all("/" in name for name in list(times)[:-1])
