"""Does it pay? An ONNX file or an engine beside its dense twin, PyTorch, and the ideal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from dynexport.artifact import Artifact
from dynexport.bench.candidates import (
    Pair,
    find_timed,
    pair_engines,
    pair_files,
    pair_in_pytorch,
    profiled,
    write_twin,
)
from dynexport.bench.layer_groups import group_times
from dynexport.bench.machine import read_machine
from dynexport.bench.ratios import Ratio
from dynexport.bench.results import BatchResult, BenchResult, Gain, find_break_even, summarise
from dynexport.bench.timing import Plan, time_candidates, time_layers
from dynexport.errors import DeviceError, InputError, MissingExtraError
from dynexport.formats.metadata import Batch
from dynexport.progress import OnStep, silent
from dynexport.runtimes import Runtime, find_runtime
from dynexport.runtimes.cuda import current_device
from dynexport.runtimes.nvml import GpuFacts, GpuWatch, gpu_facts

__all__ = [
    "BatchResult",
    "BenchResult",
    "Gain",
    "Plan",
    "bench_model",
    "find_break_even",
    "time_batch",
]

GPU_BATCHES = (1, 8, 32, 64)
"""Timed on a GPU by default, as far as the model takes them: small batches leave it idle."""


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
    names = tuple(backends) or (() if engine else ("onnxruntime",))
    runtimes = tuple(dict.fromkeys(map(find_runtime, names)))
    artifact = find_timed(model, engine, trust)
    _require_timeable(artifact, runtimes)
    on_gpu = engine is not None or any(runtime.on_gpu for runtime in runtimes)
    sizes = _batch_sizes(artifact, batches, on_gpu)
    with ExitStack() as stack:
        twin = write_twin(artifact, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        pairs = list(_pair_up(artifact, twin, runtimes, threads, on_step))
        if pytorch:
            pairs += _pair_in_pytorch(artifact, threads, plugins, on_gpu)
        gpu, watch, unseen = _watch_gpu(stack) if on_gpu else (None, None, ())
        results = tuple(time_batch(pairs, artifact, size, plan, watch, on_step) for size in sizes)
        layers = _time_groups(pairs, artifact, sizes[0], plan, on_step) if profile else {}
    conditions = watch.summary() if watch else None
    notes = (*_left_out(artifact), *unseen)
    name = str(engine or model)
    return summarise(
        name, threads, artifact.ideal, results, layers, gpu, conditions, notes, read_machine()
    )


def _require_timeable(artifact: Artifact, runtimes: Sequence[Runtime]) -> None:
    """InputError for a file that one of the runtimes has no arithmetic for."""
    if artifact.onnx is None or artifact.precision != "bf16":
        return
    for runtime in runtimes:
        if runtime.half == "emulated":
            raise InputError(
                f"{artifact.onnx} is bf16, which {runtime.name} does not compute on a CPU: time it "
                "with `engine` or `backend` onnxruntime-cuda, or convert to fp32 or int8 for CPUs"
            )


def _pair_up(
    artifact: Artifact,
    twin: Path | None,
    runtimes: Sequence[Runtime],
    threads: int | None,
    on_step: OnStep,
) -> Iterator[Pair]:
    """The engine, if there is one, and the ONNX file in each runtime, beside their twins."""
    if artifact.engine is not None:
        on_step("build the dense twin's engine" if twin else "open the engine")
        yield pair_engines(artifact, twin)
    for runtime in runtimes:
        yield pair_files(artifact, twin, runtime.name, threads)


def _pair_in_pytorch(
    artifact: Artifact, threads: int | None, plugins: Sequence[str | Path], on_gpu: bool
) -> list[Pair]:
    """PyTorch beside them, where it can run: on the GPU in half precision, if the file is."""
    device = "cuda" if on_gpu else "cpu"
    half = on_gpu and artifact.onnx is not None and artifact.precision == "fp16"
    pair = pair_in_pytorch(artifact, threads, plugins, device=device, half=half)
    return [pair] if pair else []


def _watch_gpu(stack: ExitStack) -> tuple[GpuFacts | None, GpuWatch | None, tuple[str, ...]]:
    """The GPU that CUDA uses, something that watches it, and why there is none."""
    try:
        uuid = current_device().uuid
        return gpu_facts(uuid), stack.enter_context(GpuWatch(uuid)), ()
    except (DeviceError, MissingExtraError) as error:
        return None, None, (f"clocks and power are not known: {error}",)


def _batch_sizes(artifact: Artifact, asked: Sequence[int], on_gpu: bool) -> tuple[int, ...]:
    """The sizes to time, ascending; InputError for one the model does not take."""
    ranges = artifact.batches
    if not asked:
        if not on_gpu:
            return (ranges[0].optimal,)
        return tuple(size for size in GPU_BATCHES if _taken(size, ranges)) or (ranges[0].optimal,)
    for size in asked:
        if not _taken(size, ranges):
            takes = ", ".join(map(str, ranges))
            raise InputError(
                f"batch {size} does not fit this file, which takes {takes}: "
                f"{'build' if artifact.engine else 'convert'} again with another `batch`"
            )
    return tuple(sorted(set(asked)))


def _taken(size: int, ranges: Sequence[Batch]) -> bool:
    return any(batch.smallest <= size <= batch.largest for batch in ranges)


def time_batch(
    pairs: Sequence[Pair],
    artifact: Artifact,
    size: int,
    plan: Plan,
    watch: GpuWatch | None = None,
    on_step: OnStep = silent,
) -> BatchResult:
    """Time pairs at one batch size, in turn; ``watch`` looks at the GPU meanwhile."""
    candidates = [candidate for one in pairs for candidate in one.candidates]
    on_step(f"time {', '.join(c.label for c in candidates)} at batch {size}")

    def on_round(number: int) -> None:
        on_step(f"batch {size}: round {number} of {plan.rounds}")

    shape = (size, *artifact.input_shape)
    with watch.sampling() if watch else nullcontext():
        timings = {t.label: t for t in time_candidates(candidates, shape, plan, on_round)}
    gains = []
    for one in pairs:
        if one.model is not None and one.twin is not None:
            slow, fast = timings[one.twin.label], timings[one.model.label]
            ratio = Ratio.of(slow.computing, fast.computing)
            gains.append(Gain.of(one.runtime, ratio, artifact.ideal))
    return BatchResult(size, tuple(timings.values()), tuple(gains))


def _time_groups(
    pairs: Sequence[Pair], artifact: Artifact, size: int, plan: Plan, on_step: OnStep
) -> dict[str, dict[str, float]]:
    """Milliseconds by group of layers, of every candidate whose runtime times its layers."""
    grouped = {}
    for one in pairs:
        for candidate in profiled(one):
            on_step(f"time the layers of {candidate.label}")
            shape = (size, *artifact.input_shape)
            times = time_layers(candidate, shape, plan.round_seconds * plan.rounds)
            grouped[candidate.label] = group_times(times, one.nodes.get(candidate.label))
    return grouped


def _left_out(artifact: Artifact) -> tuple[str, ...]:
    if artifact.sidecar is None or artifact.onnx is not None:
        return ()
    name = artifact.sidecar.onnx
    return (
        f"no dense twin and no PyTorch beside it: {name}, which they are made of, is not there",
    )
