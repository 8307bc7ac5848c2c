"""What a benchmark times: one model and its dense twin, in each runtime asked for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynexport.artifact import Artifact, find_artifact
from dynexport.bench.stopwatch import Candidate, Openable, TimedRunner
from dynexport.engine import build_engine, require_runnable
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import write_model
from dynexport.graph.twin import dense_twin
from dynexport.runtimes import find_runtime, require_runtime


@dataclass(frozen=True)
class Pair:
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


@dataclass(frozen=True)
class RandomModel:
    """The inference form an ONNX file was made from, in PyTorch, with random weights.

    half: in float16; compiled: through torch.compile; plugins: files of families
    """

    metadata: Metadata
    dense: bool
    device: str = "cpu"
    half: bool = False
    compiled: bool = False
    plugins: tuple[str, ...] = ()

    def open(self, threads: int | None = None, profile: bool = False) -> TimedRunner:
        """Build it; its layers are not timed."""
        from dynexport.pytorch.runner import open_pytorch

        return open_pytorch(
            self.metadata,
            self.dense,
            threads,
            self.plugins,
            device=self.device,
            half=self.half,
            compiled=self.compiled,
        )

    @property
    def name(self) -> str:
        """How reports call its runtime."""
        device = [self.device] if self.device != "cpu" else []
        kinds = [*(["fp16"] if self.half else []), *(["compiled"] if self.compiled else [])]
        return " ".join(["pytorch", *device, *kinds])


def find_timed(model: str | Path | None, engine: str | Path | None, trust: bool) -> Artifact:
    """The model behind what was given; an engine finds its ONNX file beside itself.

    EngineError if the engine cannot run here, DeviceError if there is no GPU.
    """
    artifact = find_artifact(model, engine=engine, trust=trust)
    if artifact.engine is not None and artifact.sidecar is not None:
        require_runnable(artifact.engine, artifact.sidecar, trust)
    return artifact


def write_twin(artifact: Artifact, folder: Path) -> Path | None:
    """The dense twin's ONNX file, written into ``folder``; None if there is none to make."""
    if not artifact.sparse or artifact.onnx is None:
        return None
    marks = artifact.require_metadata().dense_twin
    twin = folder / "dense.onnx"
    write_model(dense_twin(artifact.graph.clone(), marks), twin)
    return twin


def pair_engines(artifact: Artifact, twin: Path | None) -> Pair:
    """An engine, and its twin's, built the same way."""
    facts, edition = artifact.sidecar, artifact.runtime
    assert facts is not None
    made = Candidate(_label(edition, artifact.sparse), artifact)
    nodes = {made.label: {layer.name: layer.nodes for layer in facts.layers}}
    if twin is None:
        return Pair(edition, made, None, True, nodes)
    built = build_engine(
        twin,
        edition=edition,
        batches=facts.batches,
        options=facts.options,
        output=twin.with_suffix(".engine"),
    )
    dense = find_artifact(twin, engine=built.engine)
    other = Candidate(_label(edition, sparse=False), dense)
    nodes[other.label] = {layer.name: layer.nodes for layer in built.facts.layers}
    return Pair(edition, made, other, True, nodes)


def pair_files(artifact: Artifact, twin: Path | None, runtime: str, threads: int | None) -> Pair:
    """The ONNX file in a runtime, which must be installed, and its twin's there."""
    require_runtime(runtime)
    served = artifact.in_runtime(runtime).as_served()
    model = Candidate(_label(runtime, artifact.sparse), served, threads)
    dense = None
    if twin is not None:
        there = replace(served, onnx=twin, in_hand=None)
        dense = Candidate(_label(runtime, sparse=False), there, threads)
    # on a GPU it times the launches of layers, not the layers
    return Pair(runtime, model, dense, times_layers=not find_runtime(runtime).on_gpu)


def pair_in_pytorch(
    artifact: Artifact,
    threads: int | None,
    plugins: Sequence[str | Path] = (),
    *,
    device: str = "cpu",
    half: bool = False,
    compiled: bool = False,
) -> Pair | None:
    """PyTorch with random weights, sparse and dense.

    None where it cannot run on the device, or does not know the model.
    """
    if artifact.onnx is None or artifact.metadata is None or not _has_torch(device):
        return None
    files = tuple(str(Path(plugin).resolve()) for plugin in plugins)
    dense = RandomModel(artifact.metadata, True, device, half, compiled, files)
    sparse: Openable = replace(dense, dense=False)
    model = Candidate(_label(dense.name, sparse=True), sparse, threads)
    twin = Candidate(_label(dense.name, sparse=False), dense, threads)
    return Pair(dense.name, model if artifact.sparse else None, twin, times_layers=False)


def profiled(pair: Pair) -> Iterator[Candidate]:
    """Its candidates, timing their layers; none where the runtime cannot."""
    if pair.times_layers:
        yield from (replace(candidate, profile=True) for candidate in pair.candidates)


def _has_torch(device: str) -> bool:
    """Whether PyTorch is installed, and for this device, as far as its version tells."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return device == "cpu" or not version.endswith("+cpu")


def _label(runtime: str, sparse: bool) -> str:
    return f"{runtime} {'sparse' if sparse else 'dense'}"
