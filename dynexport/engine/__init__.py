"""ONNX to an engine and its sidecar, and back to a runner: TensorRT with every check before it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import onnx_ir as ir

from dynexport.check import mends_for
from dynexport.engine.sidecar import REBUILD, Sidecar, read_plan
from dynexport.errors import BuildError, EngineError, InputError
from dynexport.files import (
    cache_folder,
    existing_file,
    require_kept,
    require_writable,
    sha256_of,
    written_whole,
)
from dynexport.formats.metadata import PREFIX, Batch
from dynexport.formats.onnx_file import read_model
from dynexport.graph.functions import standard_bytes
from dynexport.graph.replay import replay_inputs
from dynexport.precision import precision_of
from dynexport.progress import OnProgress, OnStep, silent
from dynexport.runtimes import cuda
from dynexport.runtimes.tensorrt import EDITIONS, Edition, find_edition
from dynexport.runtimes.tensorrt.builder import EnginePlan, Shapes, build, require_buildable
from dynexport.runtimes.tensorrt.editions import fits
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.runtimes.tensorrt.runner import EngineRunner

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""What images may be given as."""


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
    target = Path(path.with_suffix(".engine").name if output is None else output)
    beside = Sidecar.path_beside(target)
    for file in (target, beside):
        require_writable(file)
    require_kept([path], target, beside)
    flavour, options = find_edition(edition), options or BuildOptions()
    require_buildable(flavour, options)
    graph = read_model(path)
    on_step(f"build {path.name} with {flavour.name} {flavour.load().__version__}")
    start = perf_counter()
    ranges = batch_ranges(graph, path.name, batches)
    plan = build_plan(flavour, graph, ranges, options, on_progress)
    seconds = perf_counter() - start
    facts = describe_engine(plan.content, path, graph, plan, flavour, ranges, options, seconds)
    with written_whole(target, beside) as (engine_draft, facts_draft):
        engine_draft.write_bytes(plan.content)
        facts_draft.write_text(facts.to_json())
    return EngineBuild(str(target), str(beside), len(plan.content), facts)


def build_plan(
    flavour: Edition,
    graph: ir.Model,
    ranges: Sequence[Batch],
    options: BuildOptions,
    on_progress: OnProgress = lambda phase, done, steps: None,
) -> EnginePlan:
    """Build a graph in memory; a BuildError tells what to change, where a rule knows it."""
    profiles: tuple[Mapping[str, Shapes], ...] = ()
    if _is_dynamic(graph):
        profiles = tuple(
            {
                str(v.name): ((r.smallest, *rest), (r.optimal, *rest), (r.largest, *rest))
                for v, rest in [(v, _fixed(v)) for v in (_images(graph), *replay_inputs(graph))]
            }
            for r in ranges
        )
    try:
        return build(flavour, standard_bytes(graph), profiles, options, on_progress)
    except BuildError as error:
        mends = mends_for(graph, str(error))
        if not mends:
            raise
        raise BuildError(f"{error}: {'; '.join(mends)}") from None


def batch_ranges(graph: ir.Model, name: str, batches: Sequence[str] = ()) -> tuple[Batch, ...]:
    """The batch sizes to build a graph for; InputError if it does not take those asked for."""
    asked = tuple(Batch.parse(batch) for batch in batches)
    if not _is_dynamic(graph):
        size = _shape(graph)[0]
        fixed = Batch.parse(str(size))
        if any(batch != fixed for batch in asked):
            raise InputError(
                f"{name} is made for batch {size} alone: convert it again with --batch 1:8:64"
            )
        return (fixed,)
    recorded = graph.metadata_props.get(PREFIX + "batch")
    if not asked and recorded is None:
        raise InputError(f"{name} leaves its batch size open: give a range, as in --batch 1:8:64")
    return asked or (Batch.parse(str(recorded).strip('"')),)


def open_engine(engine: str | Path, *, trust: bool = False, profile: bool = False) -> EngineRunner:
    """Open an engine on the GPU, if its sidecar says that it belongs here.

    ``trust`` opens it whatever the sidecar says, and without one, in the TensorRT that is
    installed: an engine is native code, so know where it comes from. ``profile``: time layers.
    EngineError says what does not fit, DeviceError that there is no GPU.
    """
    path = existing_file(engine, "an engine that `dynexport build` wrote")
    if trust and not Sidecar.path_beside(path).is_file():
        return EngineRunner(find_edition("auto"), read_plan(path, None), profile=profile)
    facts = Sidecar.load(path)
    plan = read_plan(path, None if trust else facts)
    require_runnable(path, facts, trust)
    flavour = EDITIONS[facts.flavour]
    kernels = cache_folder() / f"{facts.engine_sha256[:16]}.kernels" if flavour.jit else None
    return EngineRunner(
        flavour,
        plan,
        weights=_weights(path, facts) if facts.options.strip_weights else None,
        host_code=facts.options.version_compatible,
        kernels=kernels,
        profile=profile,
    )


def read_sidecar(engine: Path, model: Path | None, trust: bool) -> Sidecar:
    """What is known of an engine: its sidecar; or with ``trust`` and without one, what the ONNX
    file it was built from says of it, and that it was built here.

    EngineError if there is neither, or the sidecar names another ONNX file than ``model``.
    """
    existing_file(engine, "an engine that `dynexport build` wrote")
    if trust and model is not None and not Sidecar.path_beside(engine).is_file():
        flavour, graph = find_edition("auto"), read_model(model)
        return describe_engine(
            engine.read_bytes(),
            model,
            graph,
            EnginePlan(b"", flavour.load().__version__, None, flavour.supported, ()),
            flavour,
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


def describe_engine(
    content: bytes,
    model: Path,
    graph: ir.Model,
    plan: EnginePlan,
    flavour: Edition,
    ranges: Sequence[Batch],
    options: BuildOptions,
    seconds: float,
) -> Sidecar:
    """The sidecar of an engine whose bytes are ``content``, built from an ONNX file."""
    return Sidecar(
        flavour=flavour.name,
        version=plan.version,
        gpu=plan.gpu,
        capabilities=plan.capabilities,
        precision=precision_of(graph),
        batches=tuple(map(str, ranges)),
        input_shape=_image_shape(graph),
        engine_sha256=hashlib.sha256(content).hexdigest(),
        onnx_sha256=sha256_of(model),
        onnx=model.name,
        options=options,
        seconds=seconds,
        layers=plan.layers,
        properties={k: v for k, v in graph.metadata_props.items() if k.startswith(PREFIX)},
    )


def _weights(engine: Path, facts: Sidecar) -> bytes:
    """The ONNX file beside an engine that was built without its weights."""
    beside = facts.onnx_beside(engine)
    if beside is None:
        raise EngineError(
            f"{engine} holds no weights: put {facts.onnx}, which it was built from, beside it"
        )
    return standard_bytes(read_model(beside))


def open_alike(facts: Sidecar, graph: ir.Model) -> EngineRunner:
    """Build another graph as an engine was built, in memory, and open it."""
    flavour = find_edition(facts.flavour)
    ranges = batch_ranges(graph, facts.onnx, facts.batches)
    weights = standard_bytes(graph) if facts.options.strip_weights else None
    return EngineRunner(
        flavour, build_plan(flavour, graph, ranges, facts.options).content, weights=weights
    )


def require_runnable(engine: Path, facts: Sidecar, trust: bool = False) -> None:
    """EngineError unless the TensorRT and the GPU that are here run the engine; DeviceError if
    there is no GPU. With ``trust`` they need only be there."""
    if facts.flavour not in EDITIONS:
        raise EngineError(f"{engine} was built with {facts.flavour}, which is unknown: {REBUILD}")
    flavour = EDITIONS[facts.flavour]
    version, device = flavour.load().__version__, cuda.current_device()
    if trust:
        return
    if not _same_version(facts, version):
        raise EngineError(
            f"{engine} was built with {flavour.name} {facts.version}, here is {version}: {REBUILD}"
        )
    if not fits(device.capability, facts.capabilities):
        raise EngineError(
            f"{engine} runs on compute capability {', '.join(facts.capabilities)}, this "
            f"{device.name} has {device.capability}: {REBUILD} on it, or for it"
        )
    if facts.gpu not in (None, device.name) and not facts.options.hardware_compatible:
        raise EngineError(
            f"{engine} was built on a {facts.gpu}, this is a {device.name}: {REBUILD} here, or "
            "give --trust to run it as it is"
        )


def _same_version(facts: Sidecar, version: str) -> bool:
    if not facts.options.version_compatible:
        return version == facts.version
    ours, theirs = ([int(part) for part in v.split(".")[:2]] for v in (version, facts.version))
    return ours[0] == theirs[0] and ours >= theirs


def _is_dynamic(graph: ir.Model) -> bool:
    return not isinstance(_shape(graph)[0], int)


def _image_shape(graph: ir.Model) -> tuple[int, ...]:
    """The shape of one image: (C, H, W)."""
    return _fixed(_images(graph))


def _fixed(value: ir.Value) -> tuple[int, ...]:
    """The dimensions of an input behind the batch."""
    return tuple(int(size) for size in tuple(value.shape or ())[1:])  # type: ignore[arg-type]


def _images(graph: ir.Model) -> ir.Value:
    """The only input but for a replayed choice, images (B, C, H, W) in floating point, of which
    only the batch size may be open; InputError if the graph takes anything else."""
    replayed = replay_inputs(graph)
    inputs = [
        value
        for value in graph.graph.inputs
        if value.name not in graph.graph.initializers and value not in replayed
    ]
    shape = tuple(inputs[0].shape or ()) if len(inputs) == 1 else ()
    fixed = all(isinstance(size, int) for size in shape[1:])
    if len(shape) != 4 or not fixed or inputs[0].dtype not in FLOATS:
        found = ", ".join(f"{v.name} {v.dtype} {v.shape}" for v in inputs) or "none"
        raise InputError(
            "engines are built of models with one input, images (B, C, H, W) in floating point, "
            f"of which only the batch size may be open, found {found}: export it so"
        )
    return inputs[0]


def _shape(graph: ir.Model) -> tuple[int | ir.SymbolicDim, ...]:
    return tuple(_images(graph).shape or ())
