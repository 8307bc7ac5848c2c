"""What a benchmark times: one model and its dense twin, in each runtime asked for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from dynexport.bench.timing import Candidate
from dynexport.engine import build_engine, read_sidecar, require_runnable
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import InputError
from dynexport.files import existing_file
from dynexport.formats.metadata import Batch, Metadata
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.twin import dense_twin
from dynexport.runtimes import require_runtime, runs_on_gpu


@dataclass(frozen=True)
class TimedModel:
    """The model a benchmark is about.

    onnx, graph  the ONNX file; None for an engine whose ONNX file is not there
    metadata     what dynexport wrote into it; None for a foreign model
    engine       the engine and its sidecar, if one is timed
    """

    onnx: Path | None
    graph: ir.Model | None
    metadata: Metadata | None
    engine: tuple[Path, Sidecar] | None

    @property
    def sparse(self) -> bool:
        return self.metadata is not None and bool(self.metadata.keep_counts)

    @property
    def ideal(self) -> float:
        """The dense twin's multiply-accumulates over the model's."""
        return 1.0 if self.metadata is None else self.metadata.ideal_speedup

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image: (C, H, W)."""
        if self.engine is not None:
            channels, height, width = self.engine[1].input_shape
        else:
            assert self.metadata is not None
            channels = self.metadata.config["in_chans"]
            height = width = self.metadata.config["img_size"]
        return channels, height, width

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The ranges of batch sizes it takes."""
        if self.engine is not None:
            return self.engine[1].ranges
        assert self.metadata is not None
        return (Batch.parse(self.metadata.batch),)


@dataclass(frozen=True)
class Contender:
    """A model in a runtime, and its dense twin there.

    model, twin   None where there is none to time: the other stands alone
    times_layers  whether the runtime can tell the time of each layer
    nodes         by candidate, the ONNX nodes of each layer; none where layers are called after
                  their nodes
    """

    runtime: str
    model: Candidate | None
    twin: Candidate | None
    times_layers: bool
    nodes: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(c for c in (self.model, self.twin) if c is not None)


def find_timed_model(
    model: str | Path | None, engine: str | Path | None, trust: bool
) -> TimedModel:
    """The model behind what was given; an engine finds its ONNX file beside itself.

    EngineError if the engine cannot run here, DeviceError if there is no GPU.
    """
    if engine is None:
        if model is None:
            raise InputError("there is nothing to time: give an ONNX file, or --engine, or both")
        path = existing_file(model, "an ONNX file")
        graph = read_model(path)
        return TimedModel(path, graph, read_metadata(path, graph), None)
    at = Path(engine)
    facts = read_sidecar(at, None if model is None else Path(model), trust)
    require_runnable(at, facts, trust)
    source = facts.onnx_beside(at) if model is None else Path(model)
    made_of = None if source is None else read_model(source)
    known = facts.metadata if facts.properties else None
    return TimedModel(source, made_of, known, (at, facts))


def write_twin(subject: TimedModel, folder: Path) -> Path | None:
    """The dense twin's ONNX file, written into ``folder``; None if there is none to make."""
    if not subject.sparse or subject.graph is None or subject.metadata is None:
        return None
    twin = folder / "dense.onnx"
    twin.write_bytes(to_bytes(dense_twin(subject.graph.clone(), subject.metadata.dense_twin)))
    return twin


def engine_contender(subject: TimedModel, twin: Path | None, trust: bool) -> Contender:
    """The engine, and its twin's, built the same way."""
    assert subject.engine is not None
    path, facts = subject.engine
    opener = "dynexport.engine:open_engine"
    made = Candidate(
        _label(facts.flavour, subject.sparse), opener, {"engine": str(path), "trust": trust}
    )
    nodes = {made.label: {layer.name: layer.nodes for layer in facts.layers}}
    if twin is None:
        return Contender(facts.flavour, made, None, True, nodes)
    built = build_engine(
        twin,
        edition=facts.flavour,
        batches=facts.batches,
        options=facts.options,
        output=twin.with_suffix(".engine"),
    )
    other = Candidate(
        _label(facts.flavour, False), opener, {"engine": built.engine, "trust": False}
    )
    nodes[other.label] = {layer.name: layer.nodes for layer in built.facts.layers}
    return Contender(facts.flavour, made, other, True, nodes)


def onnx_contender(
    subject: TimedModel, twin: Path | None, backend: str, threads: int | None
) -> Contender:
    """The ONNX file in a runtime, which must be installed."""
    require_runtime(backend)
    if subject.onnx is None:
        raise InputError(
            f"{backend} needs the ONNX file the engine was built from: give it before --engine"
        )
    model, dense = (
        None
        if path is None
        else Candidate(
            _label(backend, sparse),
            "dynexport.runtimes:open_runner",
            {"name": backend, "model": str(path), "threads": threads},
        )
        for path, sparse in ((subject.onnx, subject.sparse), (twin, False))
    )
    # on a GPU it times the launches of layers, not the layers
    return Contender(backend, model, dense, times_layers=not runs_on_gpu(backend))


def pytorch_contender(
    subject: TimedModel,
    threads: int | None,
    plugins: Sequence[str | Path] = (),
    *,
    device: str = "cpu",
    half: bool = False,
    compiled: bool = False,
) -> Contender | None:
    """PyTorch with random weights; None where it cannot run on the device, or does not know the
    model."""
    if subject.onnx is None or subject.metadata is None or not _has_torch(device):
        return None
    name = " ".join(
        word
        for word, said in (
            ("pytorch", True),
            (device, device != "cpu"),
            ("fp16", half),
            ("compiled", compiled),
        )
        if said
    )
    model, dense = (
        Candidate(
            _label(name, not dense),
            "dynexport.pytorch.model:open_pytorch",
            {
                "model": str(subject.onnx),
                "dense": dense,
                "threads": threads,
                "plugins": [str(Path(plugin).resolve()) for plugin in plugins],
                "device": device,
                "half": half,
                "compiled": compiled,
            },
        )
        for dense in (False, True)
    )
    return Contender(name, model if subject.sparse else None, dense, times_layers=False)


def _has_torch(device: str) -> bool:
    """Whether PyTorch is installed, and for this device, as far as its version tells."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return device == "cpu" or not version.endswith("+cpu")


def profiled(candidate: Candidate) -> Candidate:
    """The same candidate, timing its layers; PyTorch's does not."""
    return replace(candidate, arguments={**candidate.arguments, "profile": True})


def _label(runtime: str, sparse: bool) -> str:
    return f"{runtime} {'sparse' if sparse else 'dense'}"
