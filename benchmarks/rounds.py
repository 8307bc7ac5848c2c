"""How every benchmark here measures: a process a candidate, all in turn, round by round.

A shared machine has slow phases of seconds and is never faster than it can be. So rounds are many
and turns short, of each turn the shortest run counts, ratios are formed of the shortest runs of one
round, and their median over the rounds is reported with its standard error; beside it the quotient
of the shortest runs of all rounds. Latencies in tables are the shortest run of all rounds, and
rates follow from it; the middle run of all stands beside it, as what the machine gave that day.

A candidate that does not open, or dies, is reported with its reason and does not end the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep

import numpy as np

from dynexport.bench.timing import SETTLE_SECONDS, Candidate, Plan, Worker, in_turn
from dynexport.errors import DynexportError

OPENED_AT_ONCE = 2
"""Processes that start together: nothing is timed yet."""


@dataclass(frozen=True)
class Measured:
    """Milliseconds a batch: of all runs, and ``rounds``: the shortest of each round."""

    min: float
    p50: float
    rounds: tuple[float, ...]
    runs: int


@dataclass(frozen=True)
class Failed:
    """Why there is nothing to report of a candidate."""

    reason: str


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median over the rounds and its standard error.

    shortest  the quotient of the shortest runs of all rounds
    """

    median: float
    error: float
    shortest: float

    @classmethod
    def of(cls, slow: Measured, fast: Measured) -> Ratio:
        """Rounds are paired; the error is that of the median of resampled rounds."""
        ratios = np.asarray(slow.rounds) / np.asarray(fast.rounds)
        draws = np.random.default_rng(0).choice(ratios, (1000, len(ratios)))
        error = float(np.median(draws, axis=1).std())
        return cls(float(np.median(ratios)), error, slow.min / fast.min)

    def scaled(self, factor: float) -> Ratio:
        return Ratio(self.median * factor, self.error * factor, self.shortest * factor)

    def __str__(self) -> str:
        return f"{self.median:.3f} ± {self.error:.3f} ({self.shortest:.3f})"


def time_in_turn(
    candidates: Sequence[Candidate],
    shape: Sequence[int],
    plan: Plan,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, Measured | Failed]:
    """Time candidates on random input of ``shape``; by label, in the order given.

    ``on_round`` is told the number of each round as it ends. A turn begins with a run that does
    not count; no other warming up is needed, as only the shortest run of a round counts.
    """
    failed: dict[str, Failed] = {}
    times: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        workers = _open(stack, candidates, shape, failed)
        for number in range(plan.rounds):
            for label in in_turn(workers, number):
                sleep(SETTLE_SECONDS)
                try:
                    turn = workers[label].measure(plan.round_seconds)["total"]
                except DynexportError as error:
                    failed[label] = _failure(label, error)
                    del workers[label]
                else:
                    times.setdefault(label, []).append(turn)
            on_round(number + 1)
    return {
        candidate.label: failed.get(candidate.label) or _sum_up(times[candidate.label])
        for candidate in candidates
    }


def onnx_candidate(
    label: str, path: Path, backend: str = "onnxruntime", threads: int | None = None
) -> Candidate:
    """An ONNX file in a runtime."""
    arguments = {"backend": backend, "model": str(path), "threads": threads}
    return Candidate(label, "dynexport.runtimes:open_runner", arguments)


def require_measured(results: Mapping[str, Measured | Failed]) -> dict[str, Measured]:
    """The same, where nothing may fail; DynexportError if something did."""
    for label, result in results.items():
        if isinstance(result, Failed):
            raise DynexportError(f"{label}: {result.reason}")
    return {label: result for label, result in results.items() if isinstance(result, Measured)}


def _open(
    stack: ExitStack,
    candidates: Sequence[Candidate],
    shape: Sequence[int],
    failed: dict[str, Failed],
) -> dict[str, Worker]:
    """A worker a candidate, those that start; what did not is noted in ``failed``."""

    def start(candidate: Candidate) -> Worker | Failed:
        try:
            return Worker(candidate, shape).__enter__()  # type: ignore[arg-type]
        except DynexportError as error:
            return _failure(candidate.label, error)

    workers = {}
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        for candidate, opened in zip(candidates, pool.map(start, candidates), strict=True):
            if isinstance(opened, Failed):
                failed[candidate.label] = opened
            else:
                stack.callback(partial(opened.__exit__, None, None, None))
                workers[candidate.label] = opened
    return workers


def _sum_up(turns: list[list[float]]) -> Measured:
    every = np.concatenate([np.asarray(turn) for turn in turns]) * 1000.0
    return Measured(
        min=float(every.min()),
        p50=float(np.median(every)),
        rounds=tuple(1000.0 * min(turn) for turn in turns),
        runs=len(every),
    )


def _failure(label: str, error: DynexportError) -> Failed:
    """Why, in a line, without the label that timing puts before it."""
    return Failed(" ".join(str(error).removeprefix(f"{label}: ").split()))
