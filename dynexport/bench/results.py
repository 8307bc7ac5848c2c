"""What a benchmark found: latencies, and what sparsity gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynexport.bench.timing import Timing
from dynexport.runtimes.nvml import GpuConditions, GpuFacts


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


def summarise(
    model: str,
    threads: int | None,
    ideal: float,
    batches: tuple[BatchResult, ...],
    layers: dict[str, dict[str, float]],
    gpu: GpuFacts | None,
    conditions: GpuConditions | None,
    notes: tuple[str, ...],
) -> BenchResult:
    """With what the first runtime gains at the first batch size, and from which one on it does."""
    first = batches[0].gains[0] if batches[0].gains else None
    return BenchResult(
        model=model,
        threads=threads,
        speedup=first.speedup if first else None,
        efficiency=first.efficiency if first else None,
        ideal=ideal,
        batches=batches,
        break_even=find_break_even(batches),
        layers=layers,
        gpu=gpu,
        conditions=conditions,
        notes=notes,
    )


def find_break_even(results: Sequence[BatchResult]) -> int | None:
    """The batch size from which on the first runtime gains by sparsity."""
    size = None
    for result in reversed(results):
        if not result.gains or result.gains[0].speedup <= 1.0:
            break
        size = result.batch
    return size
