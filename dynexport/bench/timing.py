"""Latency, sparse beside its dense twin: each candidate in a process of its own, rounds in turn.

Two runtimes in one process steal each other's cores, and a machine's speed drifts from minute to
minute. So every candidate gets a process, the processes take turns, and quotients are formed round
by round (`dynexport.bench.ratios`). A round counts by the median of its runs: by the shortest, the
faster of two, which runs more often in a round, would get the luckier draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from time import sleep
from typing import TypeVar

import numpy as np

from dynexport.bench.stopwatch import Candidate, Stopwatch, Times
from dynexport.errors import DynexportError, InputError
from dynexport.workers import Worker, WorkerError

SETTLE_SECONDS = 0.05
"""Between two turns: the threads of the runtime that ran last spin for a while."""

T = TypeVar("T")
Shape = tuple[int, int, int, int]
TAILS = {"p90": 10, "p99": 100}
"""Runs that a percentile needs: one of them lies beyond it. Of fewer it is the longest run."""

OnFailure = Callable[[str, DynexportError], None]


@dataclass(frozen=True)
class Spread:
    """Milliseconds: of all runs, and ``rounds``: the median of each round, for paired ratios."""

    min: float
    p50: float
    p90: float
    p99: float
    rounds: tuple[float, ...]


@dataclass(frozen=True)
class Timing:
    """Latencies of one candidate for one batch size.

    total              a run as the caller sees it: images in, answers out
    gpu                of it the GPU's work alone, images and answers staying there; None on a CPU
    enqueue            of it the host's work to put it on the GPU
    images_per_second  at the median of ``gpu``, or of ``total`` on a CPU
    """

    label: str
    batch: int
    runs: int
    total: Spread
    gpu: Spread | None
    enqueue: Spread | None
    images_per_second: float

    @property
    def computing(self) -> Spread:
        """What speed-ups are formed of: without transfers, where they can be told apart."""
        return self.total if self.gpu is None else self.gpu

    def tail(self, name: str) -> float | None:
        """Milliseconds, ``p90`` or ``p99`` of `computing`; None of too few runs for it."""
        value: float = getattr(self.computing, name)
        return value if self.runs >= TAILS[name] else None


@dataclass(frozen=True)
class Plan:
    """How long to measure: rounds, seconds each candidate runs in a round, seconds to warm up.

    Without being told, a candidate warms up as long as two rounds take. Of fewer than five rounds
    no speed-up is told (`dynexport.bench.ratios`).
    """

    rounds: int = 10
    round_seconds: float = 0.5
    warmup_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.round_seconds < inf or not 0 <= self.warming < inf:
            raise InputError(
                f"a measurement needs at least one round of more than 0 seconds, found "
                f"{self.rounds} rounds of {self.round_seconds:g} s"
            )

    @property
    def warming(self) -> float:
        """Seconds to warm up, told or not."""
        return 2 * self.round_seconds if self.warmup_seconds is None else self.warmup_seconds


def time_candidates(
    candidates: Sequence[Candidate],
    shape: Shape,
    plan: Plan,
    on_round: Callable[[int], None] = lambda number: None,
    on_failure: OnFailure | None = None,
) -> list[Timing]:
    """Time candidates on random input of ``shape`` (B, C, H, W), in turn, round by round.

    on_round    is told the number of each round as it ends
    on_failure  is told the label of a candidate whose process fails, and why, and the others go
                on without it; None: that is a DynexportError
    """
    rounds: dict[str, list[Times]] = {}
    with ExitStack() as stack:
        open_ones = {}
        for candidate in candidates:
            with _excused(candidate.label, on_failure):
                timed = stack.enter_context(TimedCandidate(candidate, shape))
                timed.measure(plan.warming)
                open_ones[candidate.label] = timed
        for number in range(plan.rounds):
            for label in in_turn(open_ones, number):
                sleep(SETTLE_SECONDS)
                with _excused(label, on_failure, open_ones.pop):
                    rounds.setdefault(label, []).append(
                        open_ones[label].measure(plan.round_seconds)
                    )
            on_round(number + 1)
    return [_timing(label, shape[0], rounds[label]) for label in open_ones]


@contextmanager
def _excused(
    label: str, on_failure: OnFailure | None, drop: Callable[[str], object] = lambda label: None
) -> Iterator[None]:
    """Tell of a failure instead of raising it, where there is someone to tell."""
    try:
        yield
    except DynexportError as error:
        if on_failure is None:
            raise
        drop(label)
        on_failure(label, error)


def in_turn(candidates: Iterable[T], number: int) -> list[T]:
    """The order of a round, another one first each time."""
    order = list(candidates)
    first = number % max(1, len(order))
    return order[first:] + order[:first]


def time_layers(candidate: Candidate, shape: Shape, seconds: float) -> dict[str, float]:
    """Milliseconds of each layer in a run, the median of as many as fit in ``seconds``.

    The candidate must have been asked for it (``profile``), and its runtime be able to.
    """
    with TimedCandidate(candidate, shape) as timed:
        timed.measure(seconds)
        return timed.layers()


def _timing(label: str, batch: int, rounds: list[Times]) -> Timing:
    kinds = {kind: _spread([times[kind] for times in rounds]) for kind in rounds[0]}
    total, gpu = kinds["total"], kinds.get("gpu")
    return Timing(
        label=label,
        batch=batch,
        runs=sum(len(times["total"]) for times in rounds),
        total=total,
        gpu=gpu,
        enqueue=kinds.get("enqueue"),
        images_per_second=1000.0 * batch / (gpu or total).p50,
    )


def _spread(rounds: list[list[float]]) -> Spread:
    every = np.concatenate([np.asarray(times) for times in rounds]) * 1000.0
    low, middle, high, highest = map(float, np.percentile(every, (0, 50, 90, 99)))
    medians = tuple(float(np.median(times)) * 1000.0 for times in rounds)
    return Spread(low, middle, high, highest, medians)


class TimedCandidate:
    """A candidate that a process of its own holds open, and runs when told."""

    def __init__(self, candidate: Candidate, shape: Shape) -> None:
        self._label = candidate.label
        self._worker = Worker(Stopwatch(candidate, shape))

    def __enter__(self) -> TimedCandidate:
        with self._named():
            self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.__exit__()

    def measure(self, seconds: float) -> Times:
        """Seconds of each run, for about ``seconds``, at least one run."""
        with self._named():
            return self._worker.ask(Stopwatch.measure, seconds)

    def layers(self) -> dict[str, float]:
        """Median milliseconds of each layer in a run."""
        with self._named():
            return self._worker.ask(Stopwatch.layers)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the candidate's label into what goes wrong."""
        try:
            yield
        except WorkerError as error:
            raise DynexportError(
                f"the process that times {self._label!r} ended: {error}; "
                "a smaller `batch` may fit in memory"
            ) from None
        except DynexportError as error:
            raise DynexportError(f"{self._label}: {error}") from None
