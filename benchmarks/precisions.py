"""What int8 gains on a CPU, on top of sparsity: every precision beside the float32 dense twin.

    python benchmarks/precisions.py --models deit-s lvvit-s swin-s convnext-s --batches 1

Weights are random, so nothing is said of accuracy. On ONNX Runtime alone, sizes of files beside
the times; the machine's own ceilings (ceilings.py) run in the same rounds, as rounds.py says.
Writes JSON and a Markdown table under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceilings import SIDE, Ceiling, find_ceilings, product_candidates
from machine import write_results
from random_weights import random_model
from rounds import Measured, onnx_candidate, require_measured, time_in_turn

import dynexport
from dynexport.bench.ratios import Ratio
from dynexport.bench.timing import Plan
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.twin import dense_twin
from dynexport.images import synthetic_images

PRECISIONS = ("fp32", "int8", "int8-dynamic")


@dataclass(frozen=True)
class Result:
    """One model at one batch size.

    times     by candidate, the float32 dense twin first
    speedups  over it, by candidate
    sizes     of the files, bytes
    ideal     by multiply-accumulates, from sparsity alone
    ceilings  by precision
    """

    model: str
    batch: int
    times: dict[str, Measured]
    speedups: dict[str, Ratio]
    sizes: dict[str, int]
    ideal: float
    ceilings: dict[str, Ceiling]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["deit-s"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--round-seconds", type=float, default=0.5)
    parser.add_argument("--name", default="precisions", help="of the files written")
    options = parser.parse_args()
    plan = Plan(rounds=options.rounds, round_seconds=options.round_seconds)
    with tempfile.TemporaryDirectory() as name:
        results = []
        for model in options.models:
            for batch in options.batches:
                results.append(measure(model, batch, options.ratio, Path(name), plan))
                print(table(results[-1:]), flush=True)
    plain: dict[str, Any] = {"results": [dataclasses.asdict(result) for result in results]}
    write_results("precisions", options, plain, table(results))


def measure(name: str, batch: int, ratio: float, folder: Path, plan: Plan) -> Result:
    """Convert to each precision and time them in turn."""
    checkpoint, pictures = folder / f"{name}.pth", folder / f"{name}.npz"
    torch.save({"model": random_model(name).state_dict()}, checkpoint)
    np.savez(pictures, images=synthetic_images(16, 224))
    files = {}
    for precision in PRECISIONS:
        wanted = dynexport.Precision(precision, calibration_data=pictures)
        path = folder / f"{name}-{batch}-{precision}.onnx"
        dynexport.convert(
            dynexport.Recipe(checkpoint, ratio=ratio, batch=batch, precision=wanted, output=path)
        )
        files[f"{precision} sparse"] = path
    facts = read_metadata(files["fp32 sparse"])
    twins = {}
    for label, path in files.items():
        twin = path.with_name(f"{path.stem}-dense.onnx")
        twin.write_bytes(to_bytes(dense_twin(read_model(path), facts.dense_twin)))
        twins[label.replace("sparse", "dense")] = twin
    files = twins | files
    candidates = [onnx_candidate(label, path) for label, path in files.items()]
    products = product_candidates(PRECISIONS, folder, None, ["onnxruntime"])
    size = facts.preprocessing.img_size
    times = require_measured(
        time_in_turn([*candidates, *products.values()], (batch, 3, *size), plan)
    )
    dense = times["fp32 dense"]
    return Result(
        model=name,
        batch=batch,
        times={label: times[label] for label in files},
        speedups={label: Ratio.of(dense, times[label]) for label in files},
        sizes={label: path.stat().st_size for label, path in files.items()},
        ideal=facts.ideal_speedup,
        ceilings=find_ceilings({key: times[made.label] for key, made in products.items()}),
    )


def table(results: list[Result]) -> str:
    """Markdown, a row a candidate; milliseconds a batch."""
    rows = [
        "| model | batch | candidate | min | p50 | MB | over fp32 dense | ideal by sparsity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for result in results:
        for label, times in result.times.items():
            ideal = f"{result.ideal:.3f}" if label.endswith("sparse") else ""
            rows.append(
                f"| {result.model} | {result.batch} | {label} | {times.min:.1f} | "
                f"{times.p50:.1f} | {result.sizes[label] / 1e6:.1f} | "
                f"{result.speedups[label]} | {ideal} |"
            )
        single, int8 = (result.ceilings[kind].gflops for kind in ("fp32", "int8"))
        notes.append(
            f"{result.model}, batch {result.batch}: one product of {SIDE} x {SIDE} x {SIDE} "
            f"reached {single:.0f} GFLOP/s in float32 and {int8:.0f} GOP/s in int8, "
            f"{int8 / single:.2f} times as much."
        )
    return "\n".join([*rows, "", *notes])


if __name__ == "__main__":
    main()
