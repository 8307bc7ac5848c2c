"""The benchmarks: the baseline answers as ours does, times become the right figures, and what fails
is told without ending the rest."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from made.tiny import build
from onnx import TensorProto, helper

from dynexport.bench.stopwatch import Candidate
from dynexport.bench.timing import Plan
from dynexport.formats.onnx_file import read_model
from dynexport.graph.macs import count_macs
from dynexport.pytorch.rewrite import keep_counts, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import ceilings  # noqa: E402
import contestants  # noqa: E402
import openers  # noqa: E402
import plain  # noqa: E402
import prepare  # noqa: E402
import report  # noqa: E402
import rounds  # noqa: E402
import tables  # noqa: E402

KEEP = KeepSchedule((0.7, 0.5, 0.3))
CEILING_MS = 100.0


def images_for(config: Any, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, *config.img_size, generator=generator)


@pytest.mark.parametrize("family", ["deit", "lvvit", "swin", "convnext"])
@pytest.mark.parametrize("keep", [KEEP, None], ids=["sparse", "dense"])
def test_the_plain_form_answers_as_ours(family: str, keep: KeepSchedule | None) -> None:
    trained = build(family, 0)
    counts = keep_counts(trained, keep) if keep else ()
    images = images_for(trained.config, 3)
    with torch.inference_mode():
        theirs = plain.PLAIN[family](trained, counts).eval()(images)
        ours = rewrite(trained, keep)(images).logits
        other = rewrite(trained, None if keep else KEEP)(images).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert (theirs - other).abs().max() > 0.01  # it does matter what is dropped


@pytest.mark.parametrize("sparse", [True, False])
def test_the_plain_export_answers_and_its_work_is_counted(tmp_path: Path, sparse: bool) -> None:
    trained = build("deit", 0)
    counts = keep_counts(trained, KEEP) if sparse else ()
    model, path = plain.PlainDeiT(trained, counts).eval(), tmp_path / "plain.onnx"
    plain.export_plain(model, 2, path)
    images = images_for(trained.config, 2)
    with open_runner("onnxruntime", path) as runner, torch.inference_mode():
        expected = model(images).numpy()
        np.testing.assert_allclose(runner.run(images.numpy())["logits"], expected, atol=1e-4)
    graph = read_model(path)
    kinds = {node.op_type for node in graph.graph}
    assert ("LogSoftmax" in kinds) == sparse, "the dense twin has no predictor"
    blocks = 4 * (50 * 4 * 32 * 32 + 2 * 50 * 50 * 32 + 50 * 2 * 32 * 128)
    dense = blocks + 49 * 32 * 48 + 320
    assert count_macs(graph) < dense if sparse else count_macs(graph) == dense


def measured(*medians: float) -> rounds.Measured:
    return rounds.Measured(min(medians), float(np.median(medians)), medians, len(medians))


def entry(form: str, runtime: str, precision: str, sparse: bool) -> contestants.Entry:
    """1 G multiply-accumulates sparse, 2 G dense."""
    label = contestants.name_entry(form, runtime, precision, sparse)
    macs = 1_000_000_000 if sparse else 2_000_000_000
    made = Candidate(label, openers.InRuntime("nowhere.onnx", "onnxruntime"))
    return contestants.Entry(form, runtime, precision, sparse, macs, 10, made)


@pytest.fixture
def result() -> report.Result:
    """Ours 1.6 times as fast as its twin and 1.25 times as the plain export; one failed."""
    ours, other = contestants.OURS, prepare.PLAIN_FORM
    times = {
        (ours, True): (10.0, 20.0, 10.0, 10.0, 20.0),
        (ours, False): (16.0, 32.0, 16.0, 16.0, 32.0),
        (other, True): (12.5, 25.0, 12.5, 12.5, 25.0),
        (other, False): (20.0, 40.0, 20.0, 20.0, 40.0),
    }
    entries = [entry(form, "onnxruntime", "fp32", sparse) for form, sparse in times]
    results: dict[str, Any] = {
        e.label: measured(*took) for e, took in zip(entries, times.values(), strict=True)
    }
    broken = dataclasses.replace(
        entry(prepare.OPTIMISED, "onnxruntime", "fp32", True), candidate=None, reason="it broke"
    )
    product = Candidate("product", ceilings.Product("nowhere.onnx", "onnxruntime"))
    results["product"] = measured(*(CEILING_MS * n for n in (1, 2, 1, 1, 2)))
    products = {("fp32", "onnxruntime"): product}
    return report.judge("deit-s", 2, [*entries, broken], products, results)


def test_every_ratio_is_of_paired_rounds(result: report.Result) -> None:
    row = result.rows[0]
    assert row.over_dense is not None
    assert row.of_ideal is not None
    assert row.over_plain is not None
    assert row.of_ceiling is not None
    assert (row.over_dense.median, row.over_dense.error) == pytest.approx((1.6, 0.0))
    assert row.ideal == 2.0
    assert row.of_ideal.median == pytest.approx(0.8)
    assert row.over_plain.median == pytest.approx(2.0)
    assert row.images_per_second == pytest.approx(200.0)
    assert row.gflops == pytest.approx(400.0)  # 2 images, 1 G a multiply-accumulate, 10 ms
    reached = 2 * ceilings.SIDE**3 / (CEILING_MS * 1e6)
    assert result.ceilings["fp32"].gflops == pytest.approx(reached)
    assert row.of_ceiling.median == pytest.approx(400.0 / reached)
    twin = result.rows[1]
    assert twin.over_dense is None
    assert twin.ideal is None


def test_no_table_has_a_quotient_that_its_rounds_do_not_support(result: report.Result) -> None:
    few = dataclasses.replace(result.rows[0].over_dense, rounds=3)
    rows = (dataclasses.replace(result.rows[0], over_dense=few), *result.rows[1:])
    text = tables.write_report([dataclasses.replace(result, rows=rows)])
    assert "| deit-s | 2 | onnxruntime | fp32 | not settled | 2.000 |" in text


def test_ours_is_compared_on_the_same_runtime(result: report.Result) -> None:
    assert [(v.form, v.sparse, round(v.ratio.median, 3)) for v in result.versus] == [
        (prepare.PLAIN_FORM, True, 1.25),
        (prepare.PLAIN_FORM, False, 1.25),
    ]


def test_the_report_names_what_failed(result: report.Result) -> None:
    text = tables.write_report([result])
    assert "Failed (plain, ORT optimizer, onnxruntime fp32, sparse): it broke" in text
    realised = "1.600 ± 0.000 | 2.000 | 0.800 ± 0.000"
    assert f"| deit-s | 2 | onnxruntime | fp32 | {realised} |" in text
    rows = [line for line in tables.table(result).splitlines() if line.startswith("|")]
    assert len({line.count(" | ") for line in rows if "---" not in line}) == 1


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """images + images."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4])
        for name in ("images", "logits")
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "images"], ["logits"])], "g", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "doubling.onnx")
    return tmp_path / "doubling.onnx"


def test_what_does_not_open_is_told_and_the_rest_is_timed(doubling: Path, tmp_path: Path) -> None:
    candidates = [
        rounds.onnx_candidate("sound", doubling, threads=1),
        rounds.onnx_candidate("absent", tmp_path / "absent.onnx"),
        Candidate("unknown", openers.InRuntime(str(doubling), "no_such_runtime")),
    ]
    results = rounds.time_in_turn(candidates, (1, 3, 4, 4), Plan(rounds=3, round_seconds=0.01))
    assert list(results) == ["sound", "absent", "unknown"]
    sound, absent, unknown = results.values()
    assert isinstance(sound, rounds.Measured)
    assert len(sound.rounds) == 3
    assert sound.min <= min(sound.rounds) <= sound.p50 <= max(sound.rounds)
    assert isinstance(absent, rounds.Failed)
    assert "cannot load the model" in absent.reason
    assert isinstance(unknown, rounds.Failed)
    assert "unknown backend 'no_such_runtime'" in unknown.reason


def test_wrong_answers_are_found(doubling: Path, tmp_path: Path) -> None:
    model = onnx.load(doubling)
    model.graph.node[0].op_type = "Mul"
    onnx.save(model, tmp_path / "squaring.onnx")
    reference, right, wrong = (
        rounds.onnx_candidate(label, path, threads=1)
        for label, path in (
            ("reference", doubling),
            ("right", doubling),
            ("wrong", tmp_path / "squaring.onnx"),
        )
    )
    found = prepare.compare_answers(reference, [right, wrong], (1, 3, 4, 4))
    assert list(found) == ["wrong"]
    assert found["wrong"].startswith("wrong answers: logits of up to")
