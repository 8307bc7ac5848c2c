"""Does it pay? An ONNX file beside its dense twin, PyTorch, and the ideal."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynexport.backends import open_runner
from dynexport.errors import InputError
from dynexport.files import existing_file
from dynexport.graph.twin import dense_twin
from dynexport.metadata import Batch, Metadata
from dynexport.onnxfile import read_metadata, read_model, to_bytes
from dynexport.timing import Candidate, Plan, Timing, speedup, time_candidates


@dataclass(frozen=True)
class BenchResult:
    """Timings of one model, its dense twin and PyTorch.

    speedup   dense twin over sparse, on the same runtime, paired round by round
    ideal     the quotient of their multiply-accumulates; efficiency: speedup / ideal
    """

    model: str
    batch: int
    threads: int | None
    timings: tuple[Timing, ...]
    speedup: float | None
    ideal: float
    efficiency: float | None


def bench_model(
    model: str | Path,
    *,
    batch: int | None = None,
    backend: str = "onnxruntime",
    threads: int | None = None,
    pytorch: bool = True,
    plugins: Sequence[str | Path] = (),
    plan: Plan | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> BenchResult:
    """Time an ONNX file, its dense twin and (where installed) PyTorch, in turn.

    ``batch`` defaults to the size the file was made for. Timings use random images, and PyTorch
    random weights: neither changes what is computed. ``plugins`` are files of families.
    """
    plan = plan or Plan()
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads were asked for: give at least 1")
    path = existing_file(model, "an ONNX file")
    graph = read_model(path)
    metadata = read_metadata(path, graph)
    size = _bench_batch(metadata, batch)
    config = metadata.config
    shape = (size, config["in_chans"], config["img_size"], config["img_size"])
    open_runner(backend, path, threads)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"backend": backend, "model": str(path), "threads": threads}
        opener = "dynexport.backends:open_runner"
        sparse = bool(metadata.keep_counts)
        candidates = [Candidate(f"{backend} {'sparse' if sparse else 'dense'}", opener, arguments)]
        if sparse:
            twin = Path(folder) / "dense.onnx"
            twin.write_bytes(to_bytes(dense_twin(graph, metadata.dense_twin)))
            candidates.append(
                Candidate(f"{backend} dense", opener, {**arguments, "model": str(twin)})
            )
        if pytorch and importlib.util.find_spec("torch"):
            candidates += [
                Candidate(
                    f"pytorch {'dense' if dense else 'sparse'}",
                    "dynexport.rebuild:open_pytorch",
                    {
                        "model": str(path),
                        "dense": dense,
                        "threads": threads,
                        "plugins": [str(Path(plugin).resolve()) for plugin in plugins],
                    },
                )
                for dense in ([False, True] if sparse else [True])
            ]
        on_step(f"time {', '.join(c.label for c in candidates)}")
        timings = time_candidates(
            candidates, shape, plan, lambda number: on_step(f"round {number} of {plan.rounds}")
        )
    gained = speedup(timings[1], timings[0]) if sparse else None
    ideal = metadata.ideal_speedup
    return BenchResult(
        model=str(path),
        batch=size,
        threads=threads,
        timings=tuple(timings),
        speedup=gained,
        ideal=ideal,
        efficiency=None if gained is None else gained / ideal,
    )


def _bench_batch(metadata: Metadata, batch: int | None) -> int:
    sizes = Batch.parse(metadata.batch)
    size = sizes.optimal if batch is None else batch
    if not sizes.smallest <= size <= sizes.largest:
        raise InputError(
            f"batch {size} does not fit this file, which takes {metadata.batch}: "
            "convert again with another --batch"
        )
    return size
