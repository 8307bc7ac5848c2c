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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import sleep
from typing import Any

import numpy as np

from dynexport.errors import DynexportError, InputError

SETTLE_SECONDS = 0.05
"""Between two turns: the threads of the runtime that ran last spin for a while."""


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    label      how reports call it
    opener     "module:function" that returns a `dynexport.backends.Runner`
    arguments  its keyword arguments, plain values
    """

    label: str
    opener: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """Latencies of one candidate over all rounds, milliseconds for a batch.

    images_per_second: at the median; rounds: the median of each round, for paired ratios.
    """

    label: str
    batch: int
    runs: int
    min: float
    p50: float
    p90: float
    p99: float
    images_per_second: float
    rounds: tuple[float, ...]


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
        workers = [stack.enter_context(_Worker(c, shape)) for c in candidates]
        for worker in workers:
            worker.measure(plan.warmup_seconds)
        rounds: list[list[list[float]]] = []
        for number in range(plan.rounds):
            turns: list[list[float]] = [[] for _ in workers]
            for turn in range(len(workers)):  # another one begins each round
                place = (number + turn) % len(workers)
                sleep(SETTLE_SECONDS)
                turns[place] = workers[place].measure(plan.round_seconds)
            rounds.append(turns)
            on_round(number + 1)
    return [
        _timing(candidate.label, shape[0], [turn[place] for turn in rounds])
        for place, candidate in enumerate(candidates)
    ]


def speedup(slow: Timing, fast: Timing) -> float:
    """How many times faster ``fast`` is: the median over rounds of the ratio of round medians."""
    return float(np.median(np.asarray(slow.rounds) / np.asarray(fast.rounds)))


def _timing(label: str, batch: int, rounds: list[list[float]]) -> Timing:
    every = np.concatenate([np.asarray(times) for times in rounds]) * 1000.0
    low, middle, high, highest = map(float, np.percentile(every, (0, 50, 90, 99)))
    medians = tuple(float(np.median(times)) * 1000.0 for times in rounds)
    rate = 1000.0 * batch / middle
    return Timing(label, batch, every.size, low, middle, high, highest, rate, medians)


class _Worker:
    """A process that holds one candidate open and runs it when told; see timing_worker.py."""

    def __init__(self, candidate: Candidate, shape: tuple[int, int, int, int]) -> None:
        self._label = candidate.label
        # -m would put the working folder first: import what this process imports
        start = f"import sys; sys.path[:] = {sys.path!r}; import dynexport.timing_worker as worker"
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

    def __enter__(self) -> _Worker:
        try:
            self._ask(self._order)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def measure(self, seconds: float) -> list[float]:
        """Seconds of each run, for about ``seconds``, at least one run."""
        times: list[float] = self._ask({"seconds": seconds})["times"]
        return times

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
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
