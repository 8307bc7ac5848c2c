"""ONNX to an engine and its sidecar, and back to a runner: TensorRT with every check before it.

`batches` (what sizes) -> `plan` (the build) -> `describe` and `sidecar` (what it is) -> `open`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from dynexport.engine.batches import batch_ranges
from dynexport.engine.describe import describe_engine, read_sidecar
from dynexport.engine.open import open_alike, open_engine, require_runnable
from dynexport.engine.plan import build_plan
from dynexport.engine.sidecar import Sidecar
from dynexport.files import existing_file, require_kept, require_writable, written_whole
from dynexport.formats.onnx_file import read_model
from dynexport.progress import OnProgress, OnStep, silent
from dynexport.runtimes.tensorrt import find_edition
from dynexport.runtimes.tensorrt.builder import require_buildable
from dynexport.runtimes.tensorrt.options import BuildOptions

__all__ = [
    "BuildOptions",
    "EngineBuild",
    "Sidecar",
    "batch_ranges",
    "build_engine",
    "build_plan",
    "open_alike",
    "open_engine",
    "read_sidecar",
    "require_runnable",
]


@dataclass(frozen=True)
class EngineBuild:
    """What `build_engine` wrote: an engine and, beside it, what it is."""

    engine: str
    sidecar: str
    size_bytes: int
    facts: Sidecar


def build_engine(
    model: str | Path,
    *,
    edition: str = "auto",
    batches: Sequence[str] = (),
    options: BuildOptions | None = None,
    output: str | Path | None = None,
    on_step: OnStep = silent,
    on_progress: OnProgress = lambda phase, done, steps: None,
) -> EngineBuild:
    """Build a TensorRT engine of an ONNX file, and write it with its sidecar.

    edition  "tensorrt", "tensorrt-rtx", or "auto": the first that is installed
    batches  ranges of the batch size, as in "1:8:64", each a profile; by default the file's
    output   the engine to write; by default the ONNX file's name with .engine

    Any ONNX file with one input (B, C, H, W) will do. Raises DynexportError's subclasses; then
    nothing was written.
    """
    path = existing_file(model, "an ONNX file")
    graph = read_model(path)
    target = Path(path.with_suffix(".engine").name if output is None else output)
    beside = Sidecar.path_beside(target)
    for file in (target, beside):
        require_writable(file)
    require_kept([path], target, beside)
    found, options = find_edition(edition), options or BuildOptions()
    require_buildable(found, options)
    on_step(f"build {path.name} with {found.name} {found.load().__version__}")
    start = perf_counter()
    ranges = batch_ranges(graph, path.name, batches)
    plan = build_plan(found, graph, ranges, options, on_progress)
    seconds = perf_counter() - start
    facts = describe_engine(plan.content, path, graph, plan, found, ranges, options, seconds)
    with written_whole(target, beside) as (engine_draft, facts_draft):
        engine_draft.write_bytes(plan.content)
        facts_draft.write_text(facts.to_json())
    return EngineBuild(str(target), str(beside), len(plan.content), facts)
