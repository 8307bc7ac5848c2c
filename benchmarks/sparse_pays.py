"""Does sparse pay? Speed-up over the dense twin against the ideal, and against a plain export.

    python benchmarks/sparse_pays.py --models deit-s --batches 1 8 --ratio 0.7

Weights are random, and differ wherever a trained model's would: equal ones would be merged.
Each candidate runs in its own process, rounds are interleaved, ratios are formed round by round;
the figure behind a ratio's plus or minus is its standard error over the rounds. For Swins and
ConvNeXts the evaluation form of plain.py, exported as it is, runs in the same rounds. Writes JSON
and a Markdown table under benchmarks/results/, named after the processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from machine import write_results
from plain import PLAIN, export_plain
from random_weights import random_model

import dynexport
from dynexport.graph.twin import dense_twin
from dynexport.keep import schedule_from_base
from dynexport.metadata import Metadata
from dynexport.models import find_variant
from dynexport.onnxfile import read_metadata, read_model, to_bytes
from dynexport.rewrite import keep_counts
from dynexport.timing import Candidate, Plan, Timing, time_candidates


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median over the rounds and its standard error."""

    median: float
    error: float

    @classmethod
    def of(cls, slow: Timing, fast: Timing) -> Ratio:
        ratios = np.asarray(slow.total.rounds) / np.asarray(fast.total.rounds)
        draws = np.random.default_rng(0).choice(ratios, (1000, len(ratios)))
        return cls(float(np.median(ratios)), float(np.median(draws, axis=1).std()))

    def over(self, ideal: float) -> Ratio:
        return Ratio(self.median / ideal, self.error / ideal)

    def __str__(self) -> str:
        return f"{self.median:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Result:
    """One model at one batch size: timings, sparse first, and what follows from them."""

    model: str
    batch: int
    nodes: tuple[int, int]
    timings: tuple[Timing, ...]
    speedup: Ratio
    ideal: float
    of_ideal: Ratio
    over_plain: Ratio | None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["deit-s"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--round-seconds", type=float, default=1.0)
    parser.add_argument("--pytorch", action="store_true", help="time PyTorch, eager, as well")
    parser.add_argument("--name", default="sparse_pays", help="of the files written")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for batch in options.batches:
                results.append(measure(model, batch, Path(folder), options))
                print(table(results[-1:]), flush=True)
    write(results, options)


def measure(name: str, batch: int, folder: Path, options: argparse.Namespace) -> Result:
    """Convert, take the twin, export the plain form, and time them in turn."""
    model, (family, _) = random_model(name), find_variant(name)
    checkpoint, onnx, twin, plain = (
        folder / f"{name}{end}" for end in (".pth", ".onnx", "-dense.onnx", "-plain.onnx")
    )
    torch.save({"model": model.state_dict()}, checkpoint)
    dynexport.convert(checkpoint, ratio=options.ratio, batch=batch, output=onnx)
    graph = read_model(onnx)
    metadata = read_metadata(onnx, graph)
    twin.write_bytes(to_bytes(dense_twin(graph, metadata.dense_twin)))
    files = {"sparse": onnx, "dense": twin}
    if family.name in PLAIN:
        keep = schedule_from_base(family.schedule, options.ratio, len(metadata.keep_counts))
        export_plain(family.name, model, keep_counts(model, keep), batch, plain)
        files["plain sparse"] = plain
    candidates = [onnx_candidate(f"onnxruntime {label}", path) for label, path in files.items()]
    if options.pytorch:
        candidates += [
            Candidate(
                f"pytorch {label}",
                "dynexport.rebuild:open_pytorch",
                {"model": str(onnx), "dense": label == "dense", "threads": None},
            )
            for label in ("sparse", "dense")
        ]
    size = metadata.preprocessing.img_size
    plan = Plan(rounds=options.rounds, round_seconds=options.round_seconds)
    return judge(name, metadata, time_candidates(candidates, (batch, 3, size, size), plan))


def onnx_candidate(label: str, path: Path) -> Candidate:
    """An ONNX file in ONNX Runtime."""
    arguments = {"backend": "onnxruntime", "model": str(path), "threads": None}
    return Candidate(label, "dynexport.backends:open_runner", arguments)


def judge(name: str, metadata: Metadata, timings: list[Timing]) -> Result:
    """What the timings say; sparse is the first, its twin the second."""
    by_label = {timing.label: timing for timing in timings}
    speedup = Ratio.of(timings[1], timings[0])
    plain = by_label.get("onnxruntime plain sparse")
    return Result(
        model=name,
        batch=timings[0].batch,
        nodes=(metadata.nodes, metadata.nodes_dense),
        timings=tuple(timings),
        speedup=speedup,
        ideal=metadata.ideal_speedup,
        of_ideal=speedup.over(metadata.ideal_speedup),
        over_plain=None if plain is None else Ratio.of(plain, timings[0]),
    )


def table(results: list[Result]) -> str:
    """Markdown, a row a candidate; milliseconds a batch."""
    rows = [
        "| model | batch | candidate | min | p50 | images/s | speed-up | ideal | of ideal "
        "| over plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for place, timing in enumerate(result.timings):
            plain = "" if result.over_plain is None else str(result.over_plain)
            gains = f"{result.speedup} | {result.ideal:.3f} | {result.of_ideal} | {plain} |"
            rows.append(
                f"| {result.model} | {result.batch} | {timing.label} | {timing.total.min:.1f} | "
                f"{timing.total.p50:.1f} | {timing.images_per_second:.1f} | "
                + (gains if place == 0 else "| | | |")
            )
    return "\n".join(rows)


def write(results: list[Result], options: argparse.Namespace) -> None:
    """JSON and Markdown under benchmarks/results/."""
    plain = {"results": [dataclasses.asdict(result) for result in results]}
    write_results("sparse_pays", options, plain, table(results))


if __name__ == "__main__":
    main()
