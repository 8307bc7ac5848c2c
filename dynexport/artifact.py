"""What is verified: an ONNX file in a runtime, or the engine that was built from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dynexport.engine import open_alike, open_engine, read_sidecar
from dynexport.errors import InputError
from dynexport.formats.metadata import Batch
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.emulation import computes_in_half, emulate_half
from dynexport.runtimes import Runner, find_runtime, open_runner


@dataclass(frozen=True)
class Subject:
    """What is verified, in the runtime it runs in.

    name        how reports call it
    graph       the ONNX graph it is, or was made of
    sizes       batch sizes to run; at the optimal one all images, at others two batches
    backend     how reports call the runtime
    open        opens it
    open_probe  opens a changed copy of the graph in the same runtime: with further outputs, or with
                a choice to be replayed
    rebuilt     such a copy is compiled anew, and so may round otherwise
    """

    name: str
    graph: ir.Model
    sizes: tuple[int, ...]
    optimal: int
    backend: str
    open: Callable[[], Runner]
    open_probe: Callable[[ir.Model], Runner]
    rebuilt: bool = False


def find_subject(
    model: Path, backend: str | None = None, engine: str | Path | None = None, trust: bool = False
) -> Subject:
    """An ONNX file in a runtime (by default onnxruntime), or the engine that was built from it."""
    if engine is None:
        return onnx_subject(model, backend or "onnxruntime")
    if backend is not None:
        raise InputError(
            f"--backend {backend} runs the ONNX file and --engine an engine: give one of the two"
        )
    return engine_subject(Path(engine), model, trust)


def onnx_subject(model: Path, backend: str = "onnxruntime") -> Subject:
    """An ONNX file in a runtime that takes ONNX.

    A file in half precision is emulated where the runtime does not compute in it (`Runtime.half`).
    """
    runtime = find_runtime(backend)
    graph = read_model(model)
    batch = Batch.parse(read_metadata(model, graph).batch)
    half = computes_in_half(graph)
    emulated = half and runtime.half == "emulated"
    told = ", half precision emulated" if emulated else ""
    if half and runtime.half == "float32":
        told = ", half precision computed in float32"

    def open_graph(changed: ir.Model) -> Runner:
        return open_runner(backend, to_bytes(emulate_half(changed) if emulated else changed))

    return Subject(
        name=str(model),
        graph=graph,
        sizes=batch_sizes(batch),
        optimal=batch.optimal,
        backend=f"{backend}{told}",
        open=lambda: open_graph(graph) if emulated else open_runner(backend, model),
        open_probe=open_graph,
        rebuilt=runtime.compiles,
    )


def engine_subject(engine: Path, model: Path, trust: bool = False) -> Subject:
    """A TensorRT engine; EngineError unless it was built from the ONNX file ``model``.

    The kept sets are told by a probe engine, built with the same options.
    """
    facts = read_sidecar(engine, model, trust)
    batches = facts.ranges
    sizes = {size for batch in batches for size in (*batch_sizes(batch), batch.largest)}
    return Subject(
        name=str(engine),
        graph=read_model(model),
        sizes=tuple(sorted(sizes)),
        optimal=batches[0].optimal,
        backend=f"{facts.flavour} {facts.version}",
        open=lambda: open_engine(engine, trust=trust),
        open_probe=lambda probe: open_alike(facts, probe),
        rebuilt=True,
    )


def batch_sizes(batch: Batch) -> tuple[int, ...]:
    """Sizes worth running: the only one, or the smallest, the optimal, and one just above it."""
    if not batch.dynamic:
        return (batch.optimal,)
    above = min(batch.optimal + 1, batch.largest)
    return tuple(sorted({batch.smallest, batch.optimal, above}))
