"""What is known of an engine, written when it is built and read before it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from dynexport.engine.batches import batch_ranges, image_shape
from dynexport.engine.sidecar import REBUILD, Sidecar
from dynexport.errors import EngineError
from dynexport.files import existing_file, sha256_of
from dynexport.formats.metadata import PREFIX, Batch
from dynexport.formats.onnx_file import read_model
from dynexport.precision import precision_of
from dynexport.runtimes.tensorrt import Edition, find_edition
from dynexport.runtimes.tensorrt.builder import EnginePlan
from dynexport.runtimes.tensorrt.options import BuildOptions


def describe_engine(
    content: bytes,
    model: Path,
    graph: ir.Model,
    plan: EnginePlan,
    edition: Edition,
    ranges: Sequence[Batch],
    options: BuildOptions,
    seconds: float,
) -> Sidecar:
    """The sidecar of an engine whose bytes are ``content``, built from an ONNX file."""
    return Sidecar(
        flavour=edition.name,
        version=plan.version,
        gpu=plan.gpu,
        capabilities=plan.capabilities,
        precision=precision_of(graph),
        batches=tuple(map(str, ranges)),
        input_shape=image_shape(graph),
        engine_sha256=hashlib.sha256(content).hexdigest(),
        onnx_sha256=sha256_of(model),
        onnx=model.name,
        options=options,
        seconds=seconds,
        layers=plan.layers,
        properties={k: v for k, v in graph.metadata_props.items() if k.startswith(PREFIX)},
    )


def read_sidecar(engine: Path, model: Path | None, trust: bool) -> Sidecar:
    """What is known of an engine: its sidecar.

    With ``trust`` and without one, what the ONNX file it was built from says of it, and that it was
    built here.

    EngineError if there is neither, or the sidecar names another ONNX file than ``model``.
    """
    existing_file(engine, "an engine that `dynexport build` wrote")
    if trust and model is not None and not Sidecar.path_beside(engine).is_file():
        edition, graph = find_edition("auto"), read_model(model)
        return describe_engine(
            engine.read_bytes(),
            model,
            graph,
            EnginePlan(b"", edition.load().__version__, None, edition.supported, ()),
            edition,
            batch_ranges(graph, model.name),
            BuildOptions(),
            seconds=0.0,
        )
    facts = Sidecar.load(engine)
    if model is not None and facts.onnx_sha256 != sha256_of(existing_file(model, "an ONNX file")):
        raise EngineError(
            f"{engine} was not built from {model} (its sidecar names {facts.onnx} with another "
            f"SHA-256): {REBUILD}"
        )
    return facts
