"""Ours against what users would run instead: the same weights, the same images, one run.

    make bench
    make bench OPTIONS="--models deit-s --batches 1"

Compared, sparse and dense: a plain export (plain.py) on ONNX Runtime, as it is and after each of
two optimisers, and on OpenVINO; the plain model in PyTorch, eager and compiled; and what
``dynexport convert`` makes, on ONNX Runtime and OpenVINO in every precision, and in PyTorch. The
machine's own ceilings run in the same rounds (ceilings.py); how times are taken and ratios formed
stands in rounds.py. Weights are random, so nothing is said of accuracy, but a float32 peer whose
answers differ is not timed. Writes JSON, Markdown and a plot under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter

from ceilings import product_candidates
from contestants import FORMS, RUNTIMES, Entry, find_entries
from machine import write_results
from plot import draw
from prepare import Subject, write_subject
from report import Result, judge
from rounds import time_in_turn
from tables import table, write_report

from dynexport.bench.timing import Plan
from dynexport.precision import precisions

AT_ONCE = 2
"""Processes that prepare files."""


def main() -> None:
    options = parse_options()
    results = []
    for name in options.models:
        begin = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            subject = write_subject(name, options.ratio, Path(folder))
            entries = make_entries(subject, Path(folder), options)
            say(f"{name}: files made", begin)
            for batch, listed in entries.items():
                results.append(measure(subject, batch, listed, Path(folder), options))
                print(f"\n## {name}, batch {batch}\n\n{table(results[-1])}\n", flush=True)
                write(results, options)  # so far: half an hour's figures are not lost at its end


def write(results: Sequence[Result], options: argparse.Namespace) -> None:
    """JSON, Markdown and the plot under benchmarks/results/."""
    plain = {"results": [dataclasses.asdict(result) for result in results]}
    written = write_results("peers", options, plain, write_report(results))
    draw(results, written.with_suffix(".png"))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    models = ["deit-s", "lvvit-s", "swin-s", "convnext-s"]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=list(precisions()),
        default=["fp32", "int8", "int8-dynamic"],
        help="of ours; bf16 on OpenVINO comes with fp32",
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument(
        "--rounds", nargs="+", type=int, default=[14, 5], help="by batch size, or one number"
    )
    parser.add_argument("--round-seconds", type=float, default=0.1, help="of each candidate")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every candidate")
    parser.add_argument("--name", default="peers", help="of the files written")
    options = parser.parse_args()
    if len(options.rounds) not in (1, len(options.batches)):
        parser.error("--rounds takes one number, or one for each of --batches")
    return options


def make_entries(
    subject: Subject, folder: Path, options: argparse.Namespace
) -> dict[int, list[Entry]]:
    """By batch size what is asked for, prepared in processes that are gone before timing."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(AT_ONCE, mp_context=spawn) as pool:
        entries = find_entries(
            subject,
            options.batches,
            options.forms,
            options.precisions,
            options.threads,
            folder,
            pool,
        )
    return {
        batch: [entry for entry in listed if entry.runtime in options.runtimes]
        for batch, listed in entries.items()
    }


def measure(
    subject: Subject,
    batch: int,
    entries: Sequence[Entry],
    folder: Path,
    options: argparse.Namespace,
) -> Result:
    """Time all entries and the ceilings in turn, those next to each other that are compared."""
    begin = perf_counter()
    products = product_candidates(options.precisions, folder, options.threads)
    beside = sorted(entries, key=lambda entry: (entry.precision, entry.runtime))
    rounds = options.rounds[options.batches.index(batch) % len(options.rounds)]
    results = time_in_turn(
        [*products.values(), *(entry.candidate for entry in beside if entry.candidate)],
        (batch, 3, *subject.img_size),
        Plan(rounds=rounds, round_seconds=options.round_seconds),
        on_round=lambda number: say(f"batch {batch}: round {number} of {rounds}", begin),
    )
    return judge(subject.name, batch, entries, products, results)


def say(what: str, begin: float) -> None:
    print(f"{perf_counter() - begin:6.0f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
