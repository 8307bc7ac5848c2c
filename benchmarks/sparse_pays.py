"""Does sparse pay? Speed-up over the dense twin against the ideal, for published variants.

    python benchmarks/sparse_pays.py --models deit-s --batches 1 8 --ratio 0.7

Weights are random: they change no timing. Each candidate runs in its own process, rounds are
interleaved, speed-ups are paired round by round. Writes one JSON and one Markdown table under
benchmarks/results/, named after the processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from pathlib import Path

import torch

import dynexport
from dynexport.bench import BenchResult
from dynexport.timing import Plan

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dynexport", "torch", "onnx", "onnxruntime", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["deit-s"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--round-seconds", type=float, default=1.0)
    parser.add_argument("--no-pytorch", action="store_true")
    parser.add_argument("--name", default="sparse_pays", help="of the files written")
    options = parser.parse_args()
    plan = Plan(rounds=options.rounds, round_seconds=options.round_seconds)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            checkpoint = Path(folder) / f"{model}.pth"
            torch.manual_seed(0)
            torch.save({"model": dynexport.create(model).state_dict()}, checkpoint)
            for batch in options.batches:
                onnx = Path(folder) / f"{model}.onnx"
                dynexport.convert(checkpoint, ratio=options.ratio, batch=batch, output=onnx)
                result = dynexport.bench_model(onnx, plan=plan, pytorch=not options.no_pytorch)
                results.append(dataclasses.replace(result, model=model))
                print(table(results[-1:]), flush=True)
    write(results, options)


def table(results: list[BenchResult]) -> str:
    """Markdown, a row a candidate; milliseconds a batch."""
    rows = [
        "| model | batch | candidate | min | p50 | p90 | images/s | speed-up | ideal | of ideal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for place, timing in enumerate(result.timings):
            gain = "| | |"
            if place == 0 and result.speedup is not None and result.efficiency is not None:
                gain = f"{result.speedup:.2f} | {result.ideal:.2f} | {result.efficiency:.3f} |"
            rows.append(
                f"| {result.model} | {result.batch} | {timing.label} | {timing.min:.1f} | "
                f"{timing.p50:.1f} | {timing.p90:.1f} | {timing.images_per_second:.1f} | {gain}"
            )
    return "\n".join(rows)


def processor() -> str:
    """The processor's name, as the system tells it."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", facts.read_text()) if facts.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def write(results: list[BenchResult], options: argparse.Namespace) -> None:
    """JSON and Markdown under benchmarks/results/."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    flags = ("models", "batches", "ratio", "rounds", "round_seconds")
    facts = {
        "command": "python benchmarks/sparse_pays.py",
        "options": {flag: getattr(options, flag) for flag in flags},
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": versions,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    path = RESULTS / f"{options.name}_{slug}-{os.cpu_count()}-cores"
    plain = {**facts, "results": [dataclasses.asdict(result) for result in results]}
    path.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = f"{facts['processor']}, {facts['cores']} cores; {said}; `{facts['options']}`"
    path.with_suffix(".md").write_text(f"{head}\n\n{table(results)}\n")
    print(f"wrote {path}.json and .md")


if __name__ == "__main__":
    main()
