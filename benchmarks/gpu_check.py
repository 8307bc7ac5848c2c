"""One command for a machine with an NVIDIA GPU: is everything right there, and does sparse pay?

    python benchmarks/gpu_check.py                       # deit-s with random weights
    python benchmarks/gpu_check.py model.onnx ckpt.pth   # files of yours

Checkpoints are converted to fp32 and fp16 (PyTorch needed); ONNX files are taken as they are, with
the reference bundle beside them. Each is verified, outputs and kept sets, and timed beside its
dense twin in every runtime that is found: PyTorch eager and compiled, ONNX Runtime with CUDA,
TensorRT, TensorRT-RTX. What a runtime cannot do is written down with its reason, and the check goes
on. Writes JSON and a Markdown table under benchmarks/results/, named after the GPU and the day.
Needs no network.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dynexport.artifact import Artifact, find_artifact
from dynexport.bench import BatchResult, time_batch
from dynexport.bench.candidates import (
    Pair,
    pair_engines,
    pair_files,
    pair_in_pytorch,
    write_twin,
)
from dynexport.bench.machine import read_machine
from dynexport.bench.timing import Plan
from dynexport.engine import build_engine, open_engine
from dynexport.errors import DynexportError
from dynexport.runtimes import cuda
from dynexport.runtimes import nvml as gpu
from dynexport.runtimes.tensorrt import EDITIONS
from dynexport.verify import Verification, verify_model

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dynexport", "torch", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-python")
ROUNDS_OF_OPENING = 1000
GAINED = ("speedup", "efficiency")
LEAK_BYTES = 16 << 20
"""More than this lost over all rounds is a leak; less is what drivers keep."""

Value = TypeVar("Value")


@dataclass
class Report:
    """What was found, as it is found: a check that breaks off has said what came before."""

    verifications: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    leaks: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, str]] = field(default_factory=list)

    def attempt(self, what: str, step: Callable[[], Value]) -> Value | None:
        """The result of a step, or None and its reason in ``not_run``: whatever a runtime raises
        on a machine never seen before, the rest of the check goes on."""
        print(f"... {what}", flush=True)
        try:
            return step()
        except Exception as error:
            kind = "" if isinstance(error, DynexportError) else f"{type(error).__name__}: "
            print(f"    not run: {kind}{error}", flush=True)
            self.not_run.append({"what": what, "reason": f"{kind}{error}"})
            return None

    def faults(self) -> list[str]:
        """What is wrong with what did run."""
        failed = [
            f"{Path(one['model']).name} in {one['backend']} failed verification"
            for one in self.verifications
            if not one["passed"]
        ]
        return failed + [
            f"{one['engine']} lost {one['bytes']} bytes in {one['rounds']} openings"
            for one in self.leaks
            if one["bytes"] > LEAK_BYTES
        ]


def main() -> None:
    options = read_options()
    report = Report()
    try:
        uuid = None if options.on_cpu else cuda.current_device().uuid
    except DynexportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number, onnx in enumerate(onnx_files(options, Path(folder), report)):
                check_model(onnx, options, uuid, Path(folder, str(number)), report)
    finally:  # also of a check that is broken off
        write(report, options, uuid)
    if faults := report.faults():
        sys.exit(f"error: {'; '.join(faults)}")
    if not report.timings:
        sys.exit("error: nothing was timed; see not_run in the report")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help=".pth to convert, or .onnx")
    parser.add_argument("--models", nargs="*", default=["deit-s"], help="variants, if no files")
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--round-seconds", type=float, default=0.3)
    parser.add_argument("--openings", type=int, default=ROUNDS_OF_OPENING, help="for leaks")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--on-cpu", action="store_true", help="try this script where no GPU is")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def onnx_files(options: argparse.Namespace, folder: Path, report: Report) -> Iterator[Path]:
    """The ONNX files to check: those given, and what checkpoints are converted to."""
    checkpoints = [path for path in options.files if path.suffix != ".onnx"]
    yield from (path for path in options.files if path.suffix == ".onnx")
    for name in () if options.files else options.models:
        made = report.attempt(f"make {name}", lambda of=name: random_checkpoint(of, folder))
        checkpoints += [made] if made else []
    for checkpoint in checkpoints:
        for precision in options.precisions:
            made = report.attempt(
                f"convert {checkpoint.name} to {precision}",
                lambda at=checkpoint, to=precision: convert(at, to, options, folder),
            )
            if made is not None:
                yield made


def random_checkpoint(name: str, folder: Path) -> Path:
    import torch
    from random_weights import random_model

    path = folder / f"{name}.pth"
    torch.save({"model": random_model(name).state_dict()}, path)
    return path


def convert(checkpoint: Path, precision: str, options: argparse.Namespace, folder: Path) -> Path:
    from dynexport.conversion import Recipe, convert

    sizes = sorted({1, *options.batches})
    batch = f"{sizes[0]}:{sizes[len(sizes) // 2]}:{sizes[-1]}" if len(sizes) > 1 else sizes[0]
    output = folder / f"{checkpoint.stem}-{options.ratio:g}-{precision}.onnx"
    convert(
        Recipe(checkpoint, ratio=options.ratio, batch=batch, precision=precision, output=output)
    )
    return output


def check_model(
    onnx: Path, options: argparse.Namespace, uuid: str | None, work: Path, report: Report
) -> None:
    """Verify and time one ONNX file in every runtime."""
    artifact = report.attempt(f"read {onnx}", lambda: find_artifact(onnx))
    if artifact is None:
        return
    work.mkdir()
    twin = write_twin(artifact, work)
    pairs = [
        pair
        for pair in (
            *engines(artifact, onnx, twin, work, options, report),
            *runtimes(artifact, onnx, twin, options, report),
        )
        if pair is not None
    ]
    plan = Plan(options.rounds, options.round_seconds)
    for batch in options.batches:
        for pair in pairs:  # one after the other: they would share the GPU's memory
            with gpu.GpuWatch(uuid) if uuid else nullcontext() as watch:
                result = report.attempt(
                    f"time {onnx.stem} in {pair.runtime} at batch {batch}",
                    lambda one=pair, size=batch: time_batch([one], artifact, size, plan, watch),
                )
                conditions = watch.summary() if watch else None
            if result is not None:
                report.timings.append(row(onnx.stem, artifact, pair, result, conditions))


def engines(
    artifact: Artifact,
    onnx: Path,
    twin: Path | None,
    work: Path,
    options: argparse.Namespace,
    report: Report,
) -> Iterator[Pair | None]:
    """An engine and its twin's in each TensorRT that is installed, verified."""
    for edition in () if options.on_cpu else EDITIONS:
        target = work / f"{onnx.stem}-{edition}.engine"
        built = report.attempt(
            f"build {onnx.stem} with {edition}",
            lambda to=target, by=edition: build_engine(onnx, edition=by, output=to),
        )
        if built is None:
            continue
        verified = note_verification(
            report, f"verify {target.name}", lambda at=target: verify_model(onnx, engine=at)
        )
        if not verified:  # this GPU does not run it, as a Hopper does not run TensorRT-RTX
            continue
        leak = report.attempt(
            f"open and close {target.name} {options.openings} times",
            lambda at=target: lost_memory(at, options.openings),
        )
        if leak is not None:
            report.leaks.append({"engine": target.name, **leak})
        there = find_artifact(onnx, engine=target)
        yield report.attempt(
            f"build the dense twin of {target.name}",
            lambda one=there: pair_engines(one, twin),
        )


def runtimes(
    artifact: Artifact, onnx: Path, twin: Path | None, options: argparse.Namespace, report: Report
) -> Iterator[Pair | None]:
    """ONNX Runtime and PyTorch, on the GPU."""
    backend = "onnxruntime" if options.on_cpu else "onnxruntime-cuda"
    note_verification(
        report, f"verify {onnx.stem} with {backend}", lambda: verify_model(onnx, backend=backend)
    )
    yield report.attempt(
        f"open {onnx.stem} with {backend}", lambda: pair_files(artifact, twin, backend, None)
    )
    device = "cpu" if options.on_cpu else "cuda"
    half = artifact.precision == "fp16" and not options.on_cpu
    for compiled in (False, True) if options.compiled else (False,):
        yield pair_in_pytorch(artifact, None, device=device, half=half, compiled=compiled)


def note_verification(report: Report, what: str, step: Callable[[], Verification]) -> bool:
    """Whether it ran at all."""
    outcome = report.attempt(what, step)
    if outcome is not None:
        verdict = "passed" if outcome.passed else f"FAILED: {'; '.join(outcome.failures)}"
        print(f"    {verdict}", flush=True)
        report.verifications.append(dataclasses.asdict(outcome))
    return outcome is not None


def lost_memory(engine: Path, rounds: int) -> dict[str, int]:
    """Bytes of the GPU that are gone after so many rounds; the first ones fill caches."""
    with cuda.Cuda() as session:
        for _ in range(2):
            open_engine(engine).close()
        before = session.free_bytes()
        for _ in range(rounds):
            open_engine(engine).close()
        return {"rounds": rounds, "bytes": before - session.free_bytes()}


def row(
    name: str,
    artifact: Artifact,
    pair: Pair,
    result: BatchResult,
    conditions: gpu.GpuConditions | None,
) -> dict[str, Any]:
    gain = result.gains[0] if result.gains else None
    return {
        "model": name,
        "runtime": pair.runtime,
        "batch": result.batch,
        "ideal": artifact.ideal,
        "speedup": gain.speedup if gain else None,
        "of_ideal": gain.efficiency if gain else None,
        "gain": dataclasses.asdict(gain) if gain else None,
        "timings": [dataclasses.asdict(timing) for timing in result.timings],
        "conditions": dataclasses.asdict(conditions) if conditions else None,
    }


def table(report: Report) -> str:
    """Markdown, a row a runtime and batch size; milliseconds without transfers."""
    lines = [
        "| model | runtime | batch | sparse | dense | with transfers | images/s | speed-up "
        "| ideal | of ideal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in report.timings:
        by_kind = {t["label"].rpartition(" ")[2]: t for t in one["timings"]}
        cells = [
            f"{(t['gpu'] or t['total'])['p50']:.3f}" if (t := by_kind.get(kind)) else ""
            for kind in ("sparse", "dense")
        ]
        first = one["timings"][0]
        gains = _told_gain(one["gain"], one["ideal"])
        lines.append(
            f"| {one['model']} | {one['runtime']} | {one['batch']} | {cells[0]} | {cells[1]} "
            f"| {first['total']['p50']:.3f} | {first['images_per_second']:.0f} | {gains} |"
        )
    for outcome in report.verifications:
        errors = ", ".join(f"{n} {e['max_abs']:.2g}" for n, e in outcome["errors"].items())
        verdict = "passed" if outcome["passed"] else f"FAILED: {'; '.join(outcome['failures'])}"
        model = Path(outcome["model"]).name
        lines.append(f"\n{model} in {outcome['backend']}: {verdict} (error {errors})")
    lines += [
        f"\n{leak['engine']}: {leak['bytes']} bytes of the GPU gone after {leak['rounds']} openings"
        for leak in report.leaks
    ]
    lines += [f"\nNot run: {one['what']}: {one['reason']}" for one in report.not_run]
    return "\n".join(lines)


def write(report: Report, options: argparse.Namespace, uuid: str | None) -> None:
    facts = gpu.gpu_facts(uuid) if uuid else None
    name = (facts.name if facts else None) or ("cpu" if uuid is None else "gpu")
    day = datetime.date.today().isoformat()
    given = {key: str(value) for key, value in vars(options).items() if key != "results"}
    content = {
        "gpu": dataclasses.asdict(facts) if facts else None,
        "date": day,
        "machine": dataclasses.asdict(read_machine()),
        "command": "python benchmarks/gpu_check.py",
        "options": given,
        "versions": {name: version(name) for name in PACKAGES},
        **dataclasses.asdict(report),
    }
    options.results.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = options.results / f"gpu-check_{slug}_{day}"
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    versions = ", ".join(
        f"{name} {version}" for name, version in content["versions"].items() if version
    )
    head = f"{name}, {day}; {versions}; milliseconds without transfers, medians"
    path.with_suffix(".md").write_text(f"{head}\n\n{table(report)}\n")
    print(f"wrote {path}.json and .md")


def _told_gain(gain: dict[str, Any] | None, ideal: float) -> str:
    """Speed-up, ideal, and the share of it; no figures that the rounds do not support."""
    if gain is None:
        return " | | "
    if gain["unsettled"]:
        return f"not settled | {ideal:.2f} | not settled"
    speedup, share = (f"{gain[name]:.3f} ± {gain[f'{name}_error']:.3f}" for name in GAINED)
    return f"{speedup} | {ideal:.2f} | {share}"


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
