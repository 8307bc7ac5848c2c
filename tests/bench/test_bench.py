"""Benchmarks: the right things are timed; no assertion on how fast anything is."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from dynexport.artifact import find_artifact
from dynexport.bench import BatchResult, Gain, bench_model, find_break_even, results
from dynexport.bench.layer_groups import GROUPS, group_of, group_times
from dynexport.bench.machine import Host
from dynexport.bench.ratios import Ratio
from dynexport.bench.timing import Candidate, Plan, Spread, Timing, time_candidates
from dynexport.cli.bench import show_bench
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.errors import DynexportError, InputError, MissingExtraError
from dynexport.runtimes.nvml import ClockLimits, GpuFacts, GpuSample, summarise

pytestmark = pytest.mark.slow

NO_LIMITS = ClockLimits(None, None, None, None)
HOST = Host(
    "AMD EPYC", ("avx2", "fma"), 2, "Linux", "3.11", {"onnx": "1.17"}, "2030-01-02T03:04:05"
)
SHORT = Plan(rounds=2, round_seconds=0.01, warmup_seconds=0.0)


def test_sparse_dense_and_pytorch_are_timed(tiny_conversion: Conversion) -> None:
    seen: list[str] = []
    result = bench_model(tiny_conversion.onnx, plan=SHORT, threads=1, on_step=seen.append)
    (only,) = result.batches
    assert [timing.label for timing in only.timings] == [
        "onnxruntime sparse",
        "onnxruntime dense",
        "pytorch sparse",
        "pytorch dense",
    ]
    assert only.batch == 3
    for timing in only.timings:
        total = timing.total
        assert 0 < total.min <= total.p50 <= total.p90 <= total.p99
        assert timing.images_per_second == pytest.approx(3000.0 / total.p50)
        assert timing.runs >= len(total.rounds) == 2
        assert timing.gpu is None
        assert timing.enqueue is None
    assert [gain.runtime for gain in only.gains] == ["onnxruntime", "pytorch"]
    facts = tiny_conversion.metadata
    assert result.ideal == facts.macs_dense / facts.macs_sparse
    assert result.speedup is not None
    assert result.efficiency == pytest.approx(result.speedup / result.ideal)
    assert seen[-1] == "batch 3: round 2 of 2"


def test_a_dense_file_has_no_twin(tiny_checkpoint: Path, tmp_path: Path) -> None:
    dense = convert(Recipe(tiny_checkpoint, dense=True, batch=1, output=tmp_path / "dense.onnx"))
    result = bench_model(dense.onnx, plan=SHORT, pytorch=False)
    assert [timing.label for timing in result.batches[0].timings] == ["onnxruntime dense"]
    assert result.speedup is None
    assert result.ideal == 1.0


def test_a_batch_the_file_cannot_take(tiny_conversion: Conversion) -> None:
    with pytest.raises(InputError, match=r"batch 6 does not fit this file, which takes 1:3:5"):
        bench_model(tiny_conversion.onnx, batches=[2, 6])


def test_a_plan_without_rounds() -> None:
    with pytest.raises(InputError, match="at least one round"):
        Plan(rounds=0)


OPENING = """
import os, signal
class Opening:
    def __init__(self, how):
        self.how = how
    def open(self, threads=None, profile=False):
        if self.how == "raises":
            raise MemoryError("8 GiB")
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""A model that cannot be opened, for want of memory."""


def test_a_candidate_that_fails_is_named(
    tiny_conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = dataclasses.replace(find_artifact(tiny_conversion.onnx), onnx=tmp_path / "none.onnx")
    broken = Candidate("broken", none)
    with pytest.raises(DynexportError, match=r"broken: ONNX Runtime cannot load the model"):
        time_candidates([broken], (1, 3, 28, 28), SHORT)
    (tmp_path / "opening.py").write_text(OPENING)
    monkeypatch.syspath_prepend(tmp_path)
    import opening  # type: ignore[import-not-found]

    for label, reason in (("raises", "MemoryError: 8 GiB"), ("ends", "it ends Python by SIGKILL")):
        gone = Candidate(label, opening.Opening(label))
        expected = f"the process that times '{label}' ended: {reason}; a smaller `batch` may fit"
        with pytest.raises(DynexportError, match=expected):
            time_candidates([gone], (1, 3, 28, 28), SHORT)
    (tmp_path / "opening.py").unlink()
    with pytest.raises(DynexportError, match=r"the process that times 'gone' ended: Module"):
        time_candidates([Candidate("gone", opening.Opening("gone"))], (1, 3, 28, 28), SHORT)


def test_the_rest_is_timed_where_someone_is_told(
    tiny_conversion: Conversion, tmp_path: Path
) -> None:
    sound = find_artifact(tiny_conversion.onnx)
    none = dataclasses.replace(sound, onnx=tmp_path / "none.onnx")
    told: dict[str, DynexportError] = {}
    candidates = [Candidate("broken", none), Candidate("sound", sound, threads=1)]
    timings = time_candidates(
        candidates, (1, 3, 28, 28), SHORT, on_failure=lambda label, why: told.update({label: why})
    )
    assert [timing.label for timing in timings] == ["sound"]
    assert str(told["broken"]).startswith("broken: ONNX Runtime cannot load the model")


def test_candidates_run_in_processes_of_their_own(tiny_conversion: Conversion) -> None:
    """The parent never opens a runtime to time it, so runtimes cannot disturb each other."""
    loaded = "onnxruntime" in sys.modules
    candidate = Candidate("one", find_artifact(tiny_conversion.onnx))
    time_candidates([candidate], (1, 3, 28, 28), SHORT)
    assert ("onnxruntime" in sys.modules) == loaded


def test_several_batches_and_where_it_breaks_even(tiny_conversion: Conversion) -> None:
    result = bench_model(tiny_conversion.onnx, batches=[5, 1, 5], plan=SHORT, pytorch=False)
    assert [one.batch for one in result.batches] == [1, 5]
    assert result.speedup == result.batches[0].gains[0].speedup
    assert result.break_even is None  # two rounds do not tell


def gain_of(runtime: str, speedup: float, ideal: float, error: float = 0.01) -> Gain:
    return Gain.of(runtime, Ratio(speedup, error, 10), ideal)


def test_break_even_is_where_it_stays_faster() -> None:
    def gained(*speedups: float) -> list[BatchResult]:
        return [
            BatchResult(size, (), (gain_of("any", gained, 1.0),))
            for size, gained in zip((1, 8, 32), speedups, strict=True)
        ]

    assert find_break_even(gained(0.8, 1.1, 1.2)) == 8
    assert find_break_even(gained(1.1, 0.9, 1.2)) == 32
    assert find_break_even(gained(1.1, 1.2, 1.3)) == 1
    assert find_break_even(gained(1.1, 1.2, 1.0)) is None
    assert find_break_even(gained(1.1, 1.2, 1.015)) is None, "within twice the error"
    assert find_break_even([BatchResult(1, (), ())]) is None


def test_the_profile_names_where_time_goes(tiny_conversion: Conversion) -> None:
    result = bench_model(tiny_conversion.onnx, plan=SHORT, profile=True)
    assert set(result.layers) == {"onnxruntime sparse", "onnxruntime dense"}
    sparse, dense = result.layers["onnxruntime sparse"], result.layers["onnxruntime dense"]
    assert tuple(sparse) == tuple(dense) == GROUPS
    assert all(sparse[group] > 0 for group in GROUPS)
    assert dense["predictor"] == dense["top-k + gather"] == 0.0
    total = result.batches[0].timings[0].total
    assert 0 < sum(sparse.values()) < 20 * total.p99


@pytest.mark.parametrize(
    ("nodes", "group"),
    [
        (["blocks.0.attn/Softmax"], "attention"),
        (["layers.2.blocks.1.attn/Gather_3"], "attention"),
        (["blocks.0.mlp.fc1/MatMul"], "MLP"),
        (["stages.2.1.pwconv1/Add"], "MLP"),
        (["stages.2.1/Gelu"], "MLP"),
        (["stages.2.1.fast_path.0/MatMul"], "MLP"),
        (["score_predictor.1.hidden/MatMul"], "predictor"),
        (["score_predictor.1/TopK"], "top-k + gather"),
        (["layers.2.blocks.1/GatherND_2"], "top-k + gather"),
        (["layers.2.blocks.1/Concat"], "top-k + gather"),
        (["patch_embed.proj/Conv"], "other"),
        (["blocks.3.norm1/LayerNormalization"], "other"),
        (["blocks.0/Add", "blocks.0.mlp.fc2/MatMul", "blocks.0.attn/Reshape"], "MLP"),
        (["blocks.3/Add", "score_predictor.0/GatherND"], "top-k + gather"),
        (["whatever"], "other"),
        ([], "other"),
    ],
)
def test_groups(nodes: list[str], group: str) -> None:
    assert group_of(nodes) == group


def test_layers_are_grouped_by_the_nodes_in_them() -> None:
    times = {"fused": 2.0, "blocks.0.attn/MatMul": 1.0, "unknown": 0.5}
    grouped = group_times(times, {"fused": ["blocks.0.mlp.fc1/MatMul"], "unknown": []})
    assert grouped == {
        "attention": 1.0,
        "MLP": 2.0,
        "predictor": 0.0,
        "top-k + gather": 0.0,
        "other": 0.5,
    }


def test_nothing_to_time() -> None:
    with pytest.raises(InputError, match="give an ONNX file, or `engine`, or both"):
        bench_model()


def test_a_gpu_provider_that_is_not_there(tiny_conversion: Conversion) -> None:
    words = "CUDAExecutionProvider is not .* pip uninstall onnxruntime  and then  pip install 'onnx"
    with pytest.raises(MissingExtraError, match=words):
        bench_model(tiny_conversion.onnx, backends=["onnxruntime-cuda"])
    with pytest.raises(
        InputError, match="unknown backend 'onnxruntme': did you mean 'onnxruntime'"
    ):
        bench_model(tiny_conversion.onnx, backends=["onnxruntme"])


def on_a_gpu(label: str, batch: int, gpu: float, runs: int = 900) -> Timing:
    def spread(value: float) -> Spread:
        return Spread(value, value, value, value, rounds=(value,))

    return Timing(
        label, batch, runs, spread(gpu + 0.5), spread(gpu), spread(0.01), 1000 * batch / gpu
    )


def test_several_batches_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """With figures as a GPU gives them: its own time, transfers and enqueueing apart."""
    batches = tuple(
        BatchResult(
            size,
            (on_a_gpu("tensorrt sparse", size, fast), on_a_gpu("tensorrt dense", size, slow)),
            (gain_of("tensorrt", slow / fast, 1.5),),
        )
        for size, fast, slow in ((1, 1.0, 0.9), (8, 2.0, 2.5), (64, 8.0, 12.0))
    )
    gpu = GpuFacts("NVIDIA L4", "GPU-0", "8.9", None, "580", "13.0")
    seen = summarise([GpuSample(1500, 9000, 70.0, 60, ("software power cap",))], NO_LIMITS)
    show_bench(results.summarise("m.engine", None, 1.5, batches, {}, gpu, seen, ("a note",), HOST))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    head, *rows = lines[2:9]
    heads = "min p50 p90 p99 with transfers enqueue images/s runs batch speed-up of ideal"
    assert " ".join(head.split()) == heads
    figures = (
        "tensorrt sparse 1.00 1.00 1.00 1.00 1.50 0.010 1000.0 900 1 0.90 ± 0.01 x 60.0% ± 0.7%"
    )
    assert " ".join(rows[0].split()) == figures
    assert rows[5].split()[-2:] == ["900", "64"]
    assert lines[9] == "tensorrt: sparse pays from batch 8 on, ideal by MACs 1.50 x"
    assert lines[10].startswith("NVIDIA L4, SM clock 1500 to 1500 MHz")
    assert lines[10].endswith("slowed down by software power cap")
    assert lines[11] == (
        "AMD EPYC (avx2 fma), 2 cores, threads: each runtime's own; onnx 1.17; 2030-01-02T03:04:05"
    )
    assert lines[12] == "a note"


def shown(capsys: pytest.CaptureFixture[str], *batches: BatchResult) -> list[str]:
    show_bench(results.summarise("m.onnx", 2, 1.5, batches, {}, None, None, (), HOST))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(("runs", "told"), [(1, 2), (9, 2), (10, 3), (99, 3), (100, 4)])
def test_no_percentile_is_printed_that_its_runs_do_not_support(
    runs: int, told: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run has no 99th percentile, and ten none beyond them all."""
    timed = on_a_gpu("onnxruntime sparse", 1, 1.0, runs)
    lines = shown(capsys, BatchResult(1, (timed,), ()))
    row = next(line for line in lines if line.startswith("onnxruntime sparse"))
    assert row.split().count("1.00") == told


def test_a_quotient_is_printed_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    timed = (on_a_gpu("onnxruntime sparse", 1, 1.0), on_a_gpu("onnxruntime dense", 1, 1.4))
    gain = gain_of("onnxruntime", 1.4, 1.5, error=0.03)
    line = "onnxruntime: speed-up over the dense twin 1.40 ± 0.03 x, ideal by MACs 1.50 x: "
    assert f"{line}93.3% ± 2.0% of it" in shown(capsys, BatchResult(1, timed, (gain,)))


@pytest.mark.parametrize(
    ("ratio", "why"),
    [
        (Ratio(5.29, None, 1), "not settled: 1 round, give at least 5 with --rounds"),
        (Ratio(5.29, 0.01, 4), "not settled: 4 rounds, give at least 5 with --rounds"),
        (
            Ratio(5.29, 2.0, 10),
            "not settled: 10 rounds with a standard error of 37.8%, of which 5% is allowed; give "
            "more with --rounds, longer ones with --round-seconds, or a machine that does nothing "
            "else",
        ),
    ],
)
def test_no_quotient_is_printed_that_its_rounds_do_not_support(
    ratio: Ratio, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once it was 352.4 % of the ideal."""
    gain = Gain.of("onnxruntime", ratio, 1.5)
    timed = (on_a_gpu("onnxruntime sparse", 1, 1.0), on_a_gpu("onnxruntime dense", 1, 5.29))
    lines = shown(capsys, BatchResult(1, timed, (gain,)))
    told = "onnxruntime: speed-up over the dense twin not settled, ideal by MACs 1.50 x"
    assert lines[lines.index(told) + 1] == why
    lines = shown(capsys, BatchResult(1, timed, (gain,)), BatchResult(8, timed, (gain,)))
    assert f"onnxruntime, batch 8: {why}" in lines
    doubt = "onnxruntime: whether sparse pays at the largest batch is not settled, ideal by MACs"
    assert f"{doubt} 1.50 x" in lines
    assert not any("352" in line or " 5.29 x" in line for line in lines)
