"""Where latency has its steps: the same sparse model at neighbouring keep counts.

    python benchmarks/keep_counts.py --model deit-s --counts 128 148
    python benchmarks/keep_counts.py --model deit-s --align 1 2 4 6 8 12 16 --backend openvino

A matrix product is computed in tiles, so its time goes up in steps, and a count just above a step
pays for rows it does not have. The model is converted at the keep ratio as it is, and beside it
with the first stage keeping each count from the first to the last of --counts (later stages as
before), and with rows rounded up to each multiple of --align. All run in turn, round by round, and
are compared with the ratio as it is: *time* is how many times as long a batch takes, *MACs* how
many times as much is computed, and where time over MACs is below one the change pays for itself.
Weights are random. Every candidate stays open in a process of its own, some 0.3 GB for a DeiT-S.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import write_results
from random_weights import random_model
from rounds import Measured, onnx_candidate, require_measured, time_in_turn

import dynexport
from dynexport.bench.ratios import Ratio
from dynexport.bench.timing import Plan
from dynexport.formats.metadata import Metadata
from dynexport.models import find_variant
from dynexport.schedule import KeepSchedule, schedule_from_base

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Result:
    """One choice of counts, against the ratio as it is.

    rows  what blocks compute after each stage, the class token's included
    time  how many times as long a batch takes; macs: how many times as much is computed
    """

    label: str
    keep_counts: tuple[int, ...]
    rows: tuple[int, ...]
    macs_sparse: int
    measured: Measured
    time: Ratio
    macs: float
    time_over_macs: Ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="deit-s")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--counts", nargs=2, type=int, metavar=("FIRST", "LAST"))
    parser.add_argument("--align", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--round-seconds", type=float, default=0.5)
    parser.add_argument("--name", default="keep_counts", help="of the files written")
    options = parser.parse_args()
    if not options.counts and not options.align:
        parser.error("there is nothing to compare: give --counts, or --align, or both")
    with tempfile.TemporaryDirectory() as folder:
        files = convert_all(Path(folder), options)
        results = measure(files, options)
    found = {"results": [dataclasses.asdict(result) for result in results]}
    print(table(results))
    write_results("keep_counts", options, found, table(results))


def convert_all(folder: Path, options: argparse.Namespace) -> dict[str, tuple[Path, Metadata]]:
    """By label, each choice's ONNX file and its facts; a choice that is another's is left out."""
    checkpoint = folder / "random.pth"
    torch.save({"model": random_model(options.model).state_dict()}, checkpoint)
    files: dict[str, tuple[Path, Metadata]] = {}
    for label, keep in choices(options):
        onnx = folder / f"{len(files)}.onnx"
        facts = dynexport.convert(
            dynexport.Recipe(
                checkpoint, ratios=keep.ratios, align=keep.align, batch=options.batch, output=onnx
            )
        ).metadata
        if all(facts.keep_counts != other.keep_counts for _, other in files.values()):
            print(f"{label}: {' -> '.join(map(str, facts.keep_counts))}", flush=True)
            files[label] = onnx, facts
    return files


def choices(options: argparse.Namespace) -> Iterator[tuple[str, KeepSchedule]]:
    """The ratio as it is, then what is compared with it."""
    family, config = find_variant(options.model)
    keep = schedule_from_base(family.schedule, options.ratio, len(config.prune_at))
    yield AS_IT_IS, keep
    first, last = options.counts or (1, 0)
    for count in range(first, last + 1):
        # half a token more, so that cutting to a whole number gives the count
        ratio = min(1.0, (count + 0.5) / config.num_tokens)
        later = (min(ratio, other) for other in keep.ratios[1:])
        yield f"first stage keeps {count}", KeepSchedule((ratio, *later))
    for align in options.align:
        yield f"multiples of {align}", dataclasses.replace(keep, align=align)


def measure(files: dict[str, tuple[Path, Metadata]], options: argparse.Namespace) -> list[Result]:
    """Time all of them in turn."""
    candidates = [
        onnx_candidate(label, onnx, options.backend, options.threads)
        for label, (onnx, _) in files.items()
    ]
    size = files[AS_IT_IS][1].preprocessing.img_size
    plan = Plan(rounds=options.rounds, round_seconds=options.round_seconds)
    shape = (options.batch, 3, *size)
    times = require_measured(time_in_turn(candidates, shape, plan))
    plain = files[AS_IT_IS][1].macs_sparse
    return [
        judge(label, facts, times[label], times[AS_IT_IS], facts.macs_sparse / plain)
        for label, (_, facts) in files.items()
    ]


def judge(label: str, facts: Metadata, own: Measured, plain: Measured, macs: float) -> Result:
    """What a choice costs, against the ratio as it is."""
    time = Ratio.of(own, plain)
    beside = facts.selection.leading + facts.selection.appended
    return Result(
        label=label,
        keep_counts=facts.keep_counts,
        rows=tuple(beside + count for count in facts.keep_counts),
        macs_sparse=facts.macs_sparse,
        measured=own,
        time=time,
        macs=macs,
        time_over_macs=time.scaled(1.0 / macs),
    )


def table(results: Sequence[Result]) -> str:
    """Markdown, a row a choice; milliseconds a batch."""
    lines = [
        "| choice | tokens kept | rows computed | GMACs | min | p50 | time | MACs "
        "| time over MACs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        kept, rows = (", ".join(map(str, n)) for n in (result.keep_counts, result.rows))
        lines.append(
            f"| {result.label} | {kept} | {rows} | {result.macs_sparse / 1e9:.3f} "
            f"| {result.measured.min:.2f} | {result.measured.p50:.2f} | {result.time} "
            f"| {result.macs:.3f} | {result.time_over_macs} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
