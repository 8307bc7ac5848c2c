"""Draw inputs until the time is up or their number reached, and tell what was mishandled."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from dynexport.workers import Worker, WorkerError
from fuzz.judge import Verdict, Workplace, judge
from fuzz.samples import make_samples

SECONDS = 120.0
"""An input that takes longer hangs."""

FRESH = 500
"""Inputs after which a process is replaced: what one leaves behind must not hide another's."""


def main() -> int:
    """Returns 1 where something was mishandled."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="draws all inputs")
    parser.add_argument("--inputs", type=int, default=10**9, help="how many, at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long, at most")
    parser.add_argument("--start", type=int, default=0, help="the number of the first")
    parser.add_argument("--input", type=int, help="this one alone, whose files are kept")
    parser.add_argument("--samples", type=Path, help="a folder to keep the sound files in")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = asked.samples or Path(folder, "samples")
        if not samples.exists():
            samples.mkdir()
            make_samples(samples)
        if asked.input is not None:
            return _show(samples, asked.seed, asked.input)
        until = monotonic() + asked.seconds
        numbers = range(asked.start, asked.start + asked.inputs)
        return _report(_judged(samples, asked.seed, numbers, until))


Judged = Iterator[tuple[int, Verdict]]
"""The number of an input, and the verdict on it."""


def _judged(samples: Path, seed: int, numbers: range, until: float) -> Judged:
    """The verdict on each input, in order, till the time is up."""
    with ExitStack() as owned:
        worker = None
        for number in numbers:
            if monotonic() > until:
                return
            if worker is None or number % FRESH == 0:
                owned.close()
                worker = owned.enter_context(Worker(Workplace(samples)))
            try:
                yield number, worker.ask(judge, seed, number, seconds=SECONDS)
            except WorkerError as error:  # a hang, or the end of the interpreter
                yield number, Verdict((), None, "", str(error))
                worker = None


def _report(verdicts: Judged) -> int:
    """Tell of each kind of fault once, as it is found, and count them all."""
    kinds: dict[str, int] = {}
    codes: dict[int | None, int] = {}
    for number, verdict in verdicts:
        codes[verdict.code] = codes.get(verdict.code, 0) + 1
        if not verdict.fault:
            continue
        kind = re.sub(r"\d+|'[^']*'", "#", verdict.fault)[:90]
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] == 1:
            told = f"input {number}: {' '.join(verdict.arguments)}\n    {verdict.fault}"
            print(told[:1000], flush=True)
    ended = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items(), key=str))
    print(f"{sum(codes.values())} inputs ended: {ended}")
    print(f"{sum(kinds.values())} mishandled, in {len(kinds)} ways")
    for kind, count in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"{count:6} {kind}")
    return 1 if kinds else 0


def _show(samples: Path, seed: int, number: int) -> int:
    """One input, with all that was said, and where its files lie."""
    kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{seed}-{number}-"))
    with Workplace(samples) as place:
        verdict = judge(place, seed, number, kept)
    print(verdict.err, f"exit code {verdict.code}", " ".join(verdict.arguments), kept, sep="\n")
    print(verdict.fault or "taken as it should be")
    if not verdict.fault:
        shutil.rmtree(kept)
    return 1 if verdict.fault else 0


if __name__ == "__main__":
    sys.exit(main())
