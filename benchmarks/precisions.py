"""What int8 gains on a CPU, on top of sparsity: every precision beside the float32 dense twin.

    python benchmarks/precisions.py --models deit-s lvvit-s swin-s convnext-s --batches 1

Weights are random, so nothing is said of accuracy. Candidates run each in its own process, rounds
interleaved; the machine's own ceiling, one product of 2048 x 2048 x 2048 in float32 and in int8,
runs in the same rounds. Writes JSON and a Markdown table under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from machine import write_results
from random_weights import random_model
from sparse_pays import Ratio, onnx_candidate

import dynexport
from dynexport.calibration import synthetic_images
from dynexport.graph.twin import dense_twin
from dynexport.onnxfile import read_metadata, read_model, to_bytes
from dynexport.precision.int8 import quantise
from dynexport.timing import Plan, Timing, time_candidates

PRECISIONS = ("fp32", "int8", "int8-dynamic")
SIDE = 2048


@dataclass(frozen=True)
class Result:
    """One model at one batch size.

    timings   by candidate, the float32 dense twin first
    speedups  over it, by candidate
    sizes     of the files, bytes
    ideal     by multiply-accumulates, from sparsity alone
    """

    model: str
    batch: int
    timings: tuple[Timing, ...]
    speedups: dict[str, Ratio]
    sizes: dict[str, int]
    ideal: float


@dataclass(frozen=True)
class Ceiling:
    """Billions of operations a second of one large product: two for a multiply-accumulate."""

    fp32: float
    int8: float


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
        folder = Path(name)
        ceiling = measure_ceiling(folder, plan)
        print(ceiling, flush=True)
        results = []
        for model in options.models:
            for batch in options.batches:
                results.append(measure(model, batch, options.ratio, folder, plan))
                print(table(results[-1:], ceiling), flush=True)
    plain: dict[str, Any] = {
        "ceiling": dataclasses.asdict(ceiling),
        "results": [dataclasses.asdict(result) for result in results],
    }
    write_results("precisions", options, plain, table(results, ceiling))


def measure(name: str, batch: int, ratio: float, folder: Path, plan: Plan) -> Result:
    """Convert to each precision and time them in turn."""
    checkpoint, pictures = folder / f"{name}.pth", folder / f"{name}.npz"
    torch.save({"model": random_model(name).state_dict()}, checkpoint)
    np.savez(pictures, images=synthetic_images(16, 224))
    files = {}
    for precision in PRECISIONS:
        wanted = dynexport.Precision(precision, calibration_data=pictures)
        path = folder / f"{name}-{batch}-{precision}.onnx"
        dynexport.convert(checkpoint, ratio=ratio, batch=batch, precision=wanted, output=path)
        files[f"{precision} sparse"] = path
    facts = read_metadata(files["fp32 sparse"])
    twins = {}
    for label, path in files.items():
        twin = path.with_name(f"{path.stem}-dense.onnx")
        twin.write_bytes(to_bytes(dense_twin(read_model(path), facts.dense_twin)))
        twins[label.replace("sparse", "dense")] = twin
    files = twins | files
    candidates = [onnx_candidate(label, path) for label, path in files.items()]
    size = facts.preprocessing.img_size
    timings = time_candidates(candidates, (batch, 3, size, size), plan)
    return Result(
        model=name,
        batch=batch,
        timings=tuple(timings),
        speedups={timing.label: Ratio.of(timings[0], timing) for timing in timings},
        sizes={label: path.stat().st_size for label, path in files.items()},
        ideal=facts.ideal_speedup,
    )


def measure_ceiling(folder: Path, plan: Plan) -> Ceiling:
    """One product of three sides of 2048, in the forms that models use."""
    weights = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    shape = [SIDE, SIDE]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["images", "weights"], ["y"], name="y")],
        "product",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    model = ir.serde.deserialize_model(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    )
    forms = {"fp32": model, "int8": quantise(model, {"y": 4.0})}
    paths = {label: folder / f"product-{label}.onnx" for label in forms}
    for label, form in forms.items():
        paths[label].write_bytes(to_bytes(form))
    candidates = [onnx_candidate(label, path) for label, path in paths.items()]
    timings = time_candidates(candidates, (SIDE, SIDE), plan)
    rates = {timing.label: 2 * SIDE**3 / (timing.total.min * 1e6) for timing in timings}
    return Ceiling(rates["fp32"], rates["int8"])


def table(results: list[Result], ceiling: Ceiling) -> str:
    """Markdown, a row a candidate; milliseconds a batch."""
    rows = [
        f"One product of {SIDE} x {SIDE} x {SIDE} reaches {ceiling.fp32:.0f} GFLOP/s in float32 "
        f"and {ceiling.int8:.0f} GOP/s in int8, {ceiling.int8 / ceiling.fp32:.2f} times as much.",
        "",
        "| model | batch | candidate | min | p50 | MB | over fp32 dense | ideal by sparsity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for timing in result.timings:
            label = timing.label
            ideal = f"{result.ideal:.3f}" if label.endswith("sparse") else ""
            rows.append(
                f"| {result.model} | {result.batch} | {label} | {timing.total.min:.1f} | "
                f"{timing.total.p50:.1f} | {result.sizes[label] / 1e6:.1f} | "
                f"{result.speedups[label]} | {ideal} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
