"""Benchmarks: the right things are timed; no assertion on how fast anything is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynexport.bench import bench_model
from dynexport.errors import DynexportError, InputError
from dynexport.pipeline import Conversion, convert
from dynexport.timing import Candidate, Plan, Timing, speedup, time_candidates

SHORT = Plan(rounds=2, round_seconds=0.01, warmup_seconds=0.0)


def test_sparse_dense_and_pytorch_are_timed(tiny_conversion: Conversion) -> None:
    seen: list[str] = []
    result = bench_model(tiny_conversion.onnx, plan=SHORT, threads=1, on_step=seen.append)
    assert [timing.label for timing in result.timings] == [
        "onnxruntime sparse",
        "onnxruntime dense",
        "pytorch sparse",
        "pytorch dense",
    ]
    assert result.batch == 3
    for timing in result.timings:
        assert 0 < timing.min <= timing.p50 <= timing.p90 <= timing.p99
        assert timing.images_per_second == pytest.approx(3000.0 / timing.p50)
        assert timing.runs >= len(timing.rounds) == 2
    facts = tiny_conversion.metadata
    assert result.ideal == facts.macs_dense / facts.macs_sparse
    assert result.speedup is not None
    assert result.efficiency == result.speedup / result.ideal
    assert seen[-1] == "round 2 of 2"


def test_a_dense_file_has_no_twin(tiny_checkpoint: Path, tmp_path: Path) -> None:
    dense = convert(tiny_checkpoint, dense=True, batch=1, output=tmp_path / "dense.onnx")
    result = bench_model(dense.onnx, plan=SHORT, pytorch=False)
    assert [timing.label for timing in result.timings] == ["onnxruntime dense"]
    assert result.speedup is None
    assert result.ideal == 1.0


def test_speedup_is_paired_by_round() -> None:
    def timing(rounds: tuple[float, ...]) -> Timing:
        return Timing("", 4, 9, 1.0, 2.0, 3.0, 4.0, 5.0, rounds)

    assert speedup(timing((2.0, 30.0, 4.0)), timing((1.0, 10.0, 4.0))) == 2.0


def test_a_batch_the_file_cannot_take(tiny_conversion: Conversion) -> None:
    with pytest.raises(InputError, match=r"batch 6 does not fit this file, which takes 1:3:5"):
        bench_model(tiny_conversion.onnx, batch=6)


def test_a_plan_without_rounds() -> None:
    with pytest.raises(InputError, match="at least one round"):
        Plan(rounds=0)


def test_a_candidate_that_fails_is_named(tmp_path: Path) -> None:
    arguments = {"backend": "onnxruntime", "model": str(tmp_path / "none.onnx")}
    broken = Candidate("broken", "dynexport.backends:open_runner", arguments)
    with pytest.raises(DynexportError, match=r"broken: ONNX Runtime cannot load the model"):
        time_candidates([broken], (1, 3, 28, 28), SHORT)
    gone = Candidate("gone", "dynexport.no_such_module:open", {})
    with pytest.raises(DynexportError, match=r"the process that times 'gone' ended: Module"):
        time_candidates([gone], (1, 3, 28, 28), SHORT)


def test_candidates_run_in_processes_of_their_own(tiny_conversion: Conversion) -> None:
    """The parent never opens a runtime to time it, so runtimes cannot disturb each other."""
    loaded = "onnxruntime" in sys.modules
    arguments = {"backend": "onnxruntime", "model": tiny_conversion.onnx}
    candidate = Candidate("one", "dynexport.backends:open_runner", arguments)
    time_candidates([candidate], (1, 3, 28, 28), SHORT)
    assert ("onnxruntime" in sys.modules) == loaded
