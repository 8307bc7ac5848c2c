"""How every benchmark here measures: as `dynexport bench` does (`dynexport.bench.timing`).

A process a candidate, all in turn, round by round. A shared machine has slow phases of seconds, so
rounds are many and turns short, and a ratio is formed of the medians of one round, which saw the
same phase; the median of these ratios over the rounds is reported with its standard error, and not
at all where the rounds do not support it (`dynexport.bench.ratios`). Beside it latencies: the
shortest run of all rounds, and the middle one, from which rates follow.

A candidate that does not open, or dies, is reported with its reason and does not end the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openers import InRuntime

from dynexport.bench.stopwatch import Candidate
from dynexport.bench.timing import Plan, time_candidates
from dynexport.errors import DynexportError


@dataclass(frozen=True)
class Measured:
    """Milliseconds a batch: of all runs, and ``rounds``: the median of each round."""

    min: float
    p50: float
    rounds: tuple[float, ...]
    runs: int


@dataclass(frozen=True)
class Failed:
    """Why there is nothing to report of a candidate."""

    reason: str


def time_in_turn(
    candidates: Sequence[Candidate],
    shape: tuple[int, int, int, int],
    plan: Plan,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, Measured | Failed]:
    """Time candidates on random input of ``shape``; by label, in the order given.

    ``on_round`` is told the number of each round as it ends.
    """
    results: dict[str, Measured | Failed] = {}

    def note(label: str, error: DynexportError) -> None:
        results[label] = Failed(" ".join(str(error).removeprefix(f"{label}: ").split()))

    for timing in time_candidates(candidates, shape, plan, on_round, on_failure=note):
        total = timing.total
        results[timing.label] = Measured(total.min, total.p50, total.rounds, timing.runs)
    return {candidate.label: results[candidate.label] for candidate in candidates}


def onnx_candidate(
    label: str, path: Path, backend: str = "onnxruntime", threads: int | None = None
) -> Candidate:
    """An ONNX file in a runtime."""
    return Candidate(label, InRuntime(str(path), backend), threads)


def require_measured(results: Mapping[str, Measured | Failed]) -> dict[str, Measured]:
    """The same, where nothing may fail; DynexportError if something did."""
    for label, result in results.items():
        if isinstance(result, Failed):
            raise DynexportError(f"{label}: {result.reason}")
    return {label: result for label, result in results.items() if isinstance(result, Measured)}
