"""Does it pay? An ONNX file or an engine beside its dense twin, PyTorch, and the ideal."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dynexport.bench.candidates import (
    Contender,
    TimedModel,
    engine_contender,
    find_timed_model,
    onnx_contender,
    profiled,
    pytorch_contender,
    write_twin,
)
from dynexport.bench.layer_groups import group_times
from dynexport.bench.timing import Plan, Timing, speedup, time_candidates, time_layers
from dynexport.errors import DeviceError, InputError, MissingExtraError
from dynexport.formats.metadata import Batch
from dynexport.precision import precision_of
from dynexport.progress import OnStep, silent
from dynexport.runtimes import require_backend, runs_on_gpu
from dynexport.runtimes.cuda import current_device
from dynexport.runtimes.nvml import GpuConditions, GpuFacts, GpuWatch, gpu_facts

GPU_BATCHES = (1, 8, 32, 64)
"""Timed on a GPU by default, as far as the model takes them: small batches leave it idle."""


@dataclass(frozen=True)
class Gain:
    """What sparsity gained in one runtime.

    speedup     dense twin over sparse, paired round by round; on a GPU without transfers
    efficiency  of the ideal, the quotient of their multiply-accumulates
    """

    runtime: str
    speedup: float
    efficiency: float


@dataclass(frozen=True)
class BatchResult:
    """Timings of every candidate at one batch size, and what sparsity gained in each runtime."""

    batch: int
    timings: tuple[Timing, ...]
    gains: tuple[Gain, ...]


@dataclass(frozen=True)
class BenchResult:
    """Timings of one model, its dense twin and PyTorch.

    speedup     of the first runtime at the first batch size, and efficiency, how much of the ideal
                that is; None for a dense model
    ideal       the quotient of the twins' multiply-accumulates
    batches     results by batch size, ascending
    break_even  the smallest batch size timed from which on sparse is faster in the first runtime;
                None where it is not at the largest
    layers      by candidate, milliseconds of a run by group of layers, at the first batch size
    gpu         the GPU; conditions: its clocks, power and temperature meanwhile; None on a CPU
    notes       what was left out, and why
    """

    model: str
    threads: int | None
    speedup: float | None
    efficiency: float | None
    ideal: float
    batches: tuple[BatchResult, ...]
    break_even: int | None
    layers: dict[str, dict[str, float]]
    gpu: GpuFacts | None
    conditions: GpuConditions | None
    notes: tuple[str, ...]


def bench_model(
    model: str | Path | None = None,
    *,
    engine: str | Path | None = None,
    trust: bool = False,
    batches: Sequence[int] = (),
    backends: Sequence[str] = (),
    threads: int | None = None,
    pytorch: bool = True,
    profile: bool = False,
    plugins: Sequence[str | Path] = (),
    plan: Plan | None = None,
    on_step: OnStep = silent,
) -> BenchResult:
    """Time an ONNX file or an engine, its dense twin and (where installed) PyTorch, in turn.

    model     an ONNX file; with an engine the one it was built from, by default found beside it
    engine    a TensorRT engine; ``trust`` opens it whatever its sidecar says of where it runs
    batches   sizes to time; by default the one the file was made for, on a GPU `GPU_BATCHES`
    backends  runtimes for the ONNX file; by default onnxruntime, and none beside an engine
    profile   time the groups of layers as well
    plugins   files of families, for PyTorch

    Timings use random images, and PyTorch random weights: neither changes what is computed.
    """
    plan = plan or Plan()
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads were asked for: give at least 1")
    backends = tuple(dict.fromkeys(backends)) or (() if engine else ("onnxruntime",))
    for backend in backends:
        require_backend(backend)
    subject = find_timed_model(model, engine, trust)
    on_gpu = engine is not None or any(map(runs_on_gpu, backends))
    bf16 = subject.graph is not None and precision_of(subject.graph) == "bf16"
    if bf16 and "onnxruntime" in backends:
        raise InputError(
            f"{model} is bf16, which ONNX Runtime does not compute on a CPU: time it with --engine "
            "or --backend onnxruntime-cuda, or convert to fp32 or int8 for CPUs"
        )
    sizes = _batch_sizes(subject, batches, on_gpu)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        twin = write_twin(subject, folder)
        contenders = []
        if engine is not None:
            on_step("build the dense twin's engine" if twin else "open the engine")
            contenders.append(engine_contender(subject, twin, trust))
        contenders += [onnx_contender(subject, twin, name, threads) for name in backends]
        if pytorch:
            device = "cuda" if on_gpu else "cpu"
            half = on_gpu and subject.graph is not None and precision_of(subject.graph) == "fp16"
            torch = pytorch_contender(subject, threads, plugins, device=device, half=half)
            contenders += [torch] if torch else []
        gpu, watch, unseen = _watch_gpu(stack) if on_gpu else (None, None, ())
        results = tuple(
            time_batch(contenders, subject, size, plan, watch, on_step) for size in sizes
        )
        layers = _time_groups(contenders, subject, sizes[0], plan, on_step) if profile else {}
    first = results[0].gains[0] if results[0].gains else None
    return BenchResult(
        model=str(engine or model),
        threads=threads,
        speedup=first.speedup if first else None,
        efficiency=first.efficiency if first else None,
        ideal=subject.ideal,
        batches=results,
        break_even=find_break_even(results),
        layers=layers,
        gpu=gpu,
        conditions=watch.summary() if watch else None,
        notes=(*_left_out(subject), *unseen),
    )


def _watch_gpu(stack: ExitStack) -> tuple[GpuFacts | None, GpuWatch | None, tuple[str, ...]]:
    """The GPU that CUDA uses, something that watches it, and why there is none."""
    try:
        uuid = current_device().uuid
        return gpu_facts(uuid), stack.enter_context(GpuWatch(uuid)), ()
    except (DeviceError, MissingExtraError) as error:
        return None, None, (f"clocks and power are not known: {error}",)


def _batch_sizes(subject: TimedModel, asked: Sequence[int], on_gpu: bool) -> tuple[int, ...]:
    """The sizes to time, ascending; InputError for one the model does not take."""
    ranges = subject.batches
    if not asked:
        if not on_gpu:
            return (ranges[0].optimal,)
        return tuple(size for size in GPU_BATCHES if _taken(size, ranges)) or (ranges[0].optimal,)
    for size in asked:
        if not _taken(size, ranges):
            takes = ", ".join(map(str, ranges))
            raise InputError(
                f"batch {size} does not fit this file, which takes {takes}: "
                f"{'build' if subject.engine else 'convert'} again with another --batch"
            )
    return tuple(sorted(set(asked)))


def _taken(size: int, ranges: Sequence[Batch]) -> bool:
    return any(batch.smallest <= size <= batch.largest for batch in ranges)


def time_batch(
    contenders: Sequence[Contender],
    subject: TimedModel,
    size: int,
    plan: Plan,
    watch: GpuWatch | None = None,
    on_step: OnStep = silent,
) -> BatchResult:
    """Time contenders at one batch size, in turn; ``watch`` looks at the GPU meanwhile."""
    candidates = [candidate for one in contenders for candidate in one.candidates]
    on_step(f"time {', '.join(c.label for c in candidates)} at batch {size}")

    def on_round(number: int) -> None:
        on_step(f"batch {size}: round {number} of {plan.rounds}")

    shape = (size, *subject.input_shape)
    with watch.sampling() if watch else nullcontext():
        timings = {t.label: t for t in time_candidates(candidates, shape, plan, on_round)}
    gains = []
    for one in contenders:
        if one.model is not None and one.twin is not None:
            slow, fast = timings[one.twin.label], timings[one.model.label]
            gained = speedup(slow.computing, fast.computing)
            gains.append(Gain(one.runtime, gained, gained / subject.ideal))
    return BatchResult(size, tuple(timings.values()), tuple(gains))


def _time_groups(
    contenders: Sequence[Contender], subject: TimedModel, size: int, plan: Plan, on_step: OnStep
) -> dict[str, dict[str, float]]:
    """Milliseconds by group of layers, of every candidate whose runtime times its layers."""
    grouped = {}
    for one in contenders:
        if not one.times_layers:
            continue
        for candidate in one.candidates:
            on_step(f"time the layers of {candidate.label}")
            shape = (size, *subject.input_shape)
            times = time_layers(profiled(candidate), shape, plan.round_seconds * plan.rounds)
            grouped[candidate.label] = group_times(times, one.nodes.get(candidate.label))
    return grouped


def find_break_even(results: Sequence[BatchResult]) -> int | None:
    """The batch size from which on the first runtime gains by sparsity."""
    size = None
    for result in reversed(results):
        if not result.gains or result.gains[0].speedup <= 1.0:
            break
        size = result.batch
    return size


def _left_out(subject: TimedModel) -> tuple[str, ...]:
    if subject.engine is None or subject.onnx is not None:
        return ()
    name = subject.engine[1].onnx
    return (
        f"no dense twin and no PyTorch beside it: {name}, which they are made of, is not there",
    )
