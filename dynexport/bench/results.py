"""What a benchmark found: latencies, what sparsity gained, and how far that can be relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynexport.bench.machine import Host
from dynexport.bench.ratios import Ratio
from dynexport.bench.timing import Timing
from dynexport.runtimes.nvml import GpuConditions, GpuFacts


@dataclass(frozen=True)
class Gain:
    """What sparsity gained in one runtime.

    speedup            dense twin over sparse, paired round by round; on a GPU without transfers
    efficiency         of the ideal, the quotient of their multiply-accumulates
    ..._error          standard error of either; None where one round is all there is
    rounds             that they were formed of
    unsettled          why the rounds do not support the figures; empty where they do
    """

    runtime: str
    speedup: float
    efficiency: float
    speedup_error: float | None
    efficiency_error: float | None
    rounds: int
    unsettled: str

    @classmethod
    def of(cls, runtime: str, speedup: Ratio, ideal: float) -> Gain:
        """From the speed-up, and what it could be at most by multiply-accumulates."""
        share = speedup.scaled(1.0 / ideal)
        return cls(
            runtime=runtime,
            speedup=speedup.median,
            efficiency=share.median,
            speedup_error=speedup.error,
            efficiency_error=share.error,
            rounds=speedup.rounds,
            unsettled=speedup.unsettled,
        )

    @property
    def pays(self) -> bool | None:
        """Whether sparse is faster, beyond twice the error; None where the rounds do not tell."""
        return Ratio(self.speedup, self.speedup_error, self.rounds).beyond(1.0)


@dataclass(frozen=True)
class BatchResult:
    """Timings of every candidate at one batch size, and what sparsity gained in each runtime."""

    batch: int
    timings: tuple[Timing, ...]
    gains: tuple[Gain, ...]


@dataclass(frozen=True)
class BenchResult:
    """Timings of one model, its dense twin and PyTorch.

    threads     asked for; None: each runtime's choice
    speedup     of the first runtime at the first batch size, and efficiency, how much of the ideal
                that is; None for a dense model. ``..._error``, ``unsettled``: see `Gain`
    ideal       the quotient of the twins' multiply-accumulates
    batches     results by batch size, ascending
    break_even  the smallest batch size timed from which on sparse is faster in the first runtime,
                beyond twice the error; None where it is not at the largest
    layers      by candidate, milliseconds of a run by group of layers, at the first batch size
    gpu         the GPU; conditions: its clocks, power and temperature meanwhile; None on a CPU
    notes       what was left out, and why
    machine     what it was measured on, and when
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
    machine: Host
    speedup_error: float | None
    efficiency_error: float | None
    unsettled: str

    @property
    def gain(self) -> Gain | None:
        """Of the first runtime at the first batch size."""
        return self.batches[0].gains[0] if self.batches[0].gains else None


def summarise(
    model: str,
    threads: int | None,
    ideal: float,
    batches: tuple[BatchResult, ...],
    layers: dict[str, dict[str, float]],
    gpu: GpuFacts | None,
    conditions: GpuConditions | None,
    notes: tuple[str, ...],
    machine: Host,
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
        machine=machine,
        speedup_error=first.speedup_error if first else None,
        efficiency_error=first.efficiency_error if first else None,
        unsettled=first.unsettled if first else "",
    )


def find_break_even(results: Sequence[BatchResult]) -> int | None:
    """The batch size from which on the first runtime gains by sparsity, beyond twice the error."""
    size = None
    for result in reversed(results):
        if not result.gains or not result.gains[0].pays:
            break
        size = result.batch
    return size
