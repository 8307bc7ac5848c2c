"""Latency, sparse beside its dense twin: each candidate in a process of its own, rounds in turn.

Two runtimes in one process steal each other's cores, and a machine's speed drifts from minute to
minute. So every candidate gets a process, the processes take turns, and speed-ups are formed
round by round before their median is taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import sleep
from typing import Any, TypeVar

import numpy as np

from dynexport.errors import DynexportError, InputError

CLOSING_SECONDS = 10.0
"""A candidate gets so long to close its runtime: it may keep what it compiled."""

T = TypeVar("T")

Times = dict[str, list[float]]
"""Seconds of every run: "total", and where a runtime tells them apart "gpu" and "enqueue"."""

SETTLE_SECONDS = 0.05
"""Between two turns: the threads of the runtime that ran last spin for a while."""


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    label      how reports call it
    opener     "module:function" that returns a `dynexport.runtimes.Runner`
    arguments  its keyword arguments, plain values
    """

    label: str
    opener: str
    arguments: Mapping[str, Any]


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


@dataclass(frozen=True)
class Plan:
    """How long to measure: rounds, seconds each candidate runs in a round, seconds to warm up."""

    rounds: int = 10
    round_seconds: float = 0.5
    warmup_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.round_seconds <= 0 or self.warmup_seconds < 0:
            raise InputError(
                f"a measurement needs at least one round of more than 0 seconds, found "
                f"{self.rounds} rounds of {self.round_seconds:g} s"
            )


def time_candidates(
    candidates: Sequence[Candidate],
    shape: tuple[int, int, int, int],
    plan: Plan,
    on_round: Callable[[int], None] = lambda number: None,
) -> list[Timing]:
    """Time candidates on random input of ``shape`` (B, C, H, W), in turn, round by round.

    ``on_round`` is told the number of each round as it ends. DynexportError if a candidate's
    process fails.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(c, shape)) for c in candidates]
        for worker in workers:
            worker.measure(plan.warmup_seconds)
        rounds: list[list[Times]] = []
        for number in range(plan.rounds):
            turns: list[Times] = [{} for _ in workers]
            for place in in_turn(range(len(workers)), number):
                sleep(SETTLE_SECONDS)
                turns[place] = workers[place].measure(plan.round_seconds)
            rounds.append(turns)
            on_round(number + 1)
    return [
        _timing(candidate.label, shape[0], [turn[place] for turn in rounds])
        for place, candidate in enumerate(candidates)
    ]


def in_turn(candidates: Iterable[T], number: int) -> list[T]:
    """The order of a round, another one first each time."""
    order = list(candidates)
    first = number % max(1, len(order))
    return order[first:] + order[:first]


def time_layers(
    candidate: Candidate, shape: tuple[int, int, int, int], seconds: float
) -> dict[str, float]:
    """Milliseconds of each layer in a run, the median of as many as fit in ``seconds``.

    The candidate's opener must have been asked for it, and its runtime be able to.
    """
    with Worker(candidate, shape) as worker:
        worker.measure(seconds)
        return worker.layers()


def speedup(slow: Spread, fast: Spread) -> float:
    """How many times faster ``fast`` is: the median over rounds of the ratio of round medians."""
    return float(np.median(np.asarray(slow.rounds) / np.asarray(fast.rounds)))


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


class Worker:
    """A process that holds one candidate open and runs it when told; see timing_worker.py."""

    def __init__(self, candidate: Candidate, shape: tuple[int, int, int, int]) -> None:
        self._label = candidate.label
        # -m would put the working folder first: import what this process imports
        start = f"import sys; sys.path[:] = {sys.path!r}; import dynexport.bench.worker as worker"
        # a pipe that nobody reads would fill and block
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{start}; worker.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._order = {
            "opener": candidate.opener,
            "arguments": dict(candidate.arguments),
            "shape": list(shape),
        }

    def __enter__(self) -> Worker:
        try:
            self._ask(self._order)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=CLOSING_SECONDS)  # it ends where its input ends
        except (subprocess.TimeoutExpired, OSError, ValueError):
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def measure(self, seconds: float) -> Times:
        """Seconds of each run, for about ``seconds``, at least one run."""
        times: Times = self._ask({"seconds": seconds})
        return times

    def layers(self) -> dict[str, float]:
        """Median milliseconds of each layer in a run."""
        layers: dict[str, float] = self._ask({"layers": True})["layers"]
        return layers

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise DynexportError(
                f"the process that times {self._label!r} ended: {last}; "
                "a smaller --batch may fit in memory"
            ) from None
        if "error" in answer:
            raise DynexportError(f"{self._label}: {answer['error']}")
        return answer
