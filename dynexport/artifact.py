"""What is verified, timed, drawn: an ONNX file in a runtime, or an engine that was built from it.

`find_artifact` makes one of paths and `onnx_artifact` of a graph in hand. Either way the ONNX file
is read once, and its metadata once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dynexport.engine import open_alike, open_engine, read_sidecar
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import InputError, ModelFileError
from dynexport.files import existing_file
from dynexport.formats.metadata import Batch, Metadata
from dynexport.formats.onnx_file import read_metadata, read_model
from dynexport.graph.emulation import computes_in_half, emulate_half
from dynexport.precision import precision_of
from dynexport.runtimes import Runner, find_runtime, open_runner

HALF_NOTES = {
    "computed": "",
    "emulated": ", half precision emulated",
    "float32": ", half precision computed in float32",
}
"""What a report says of a graph in half precision, by `Runtime.half`."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """A file that computes a model, and what it runs in.

    onnx      the ONNX file it is, or was built from; None for an engine that stands alone
    runtime   the runtime of the ONNX file, or the edition of TensorRT that built the engine
    metadata  what dynexport wrote into the ONNX file; None for an engine of a foreign model
    batches   the ranges of batch sizes it takes
    label     how reports call the runtime
    engine    the engine, and ``sidecar`` what is known of it; None for an ONNX file
    trust     open the engine whatever its sidecar says
    emulated  half precision is computed by float32 operators and rounded, in a runtime that has
              none in half

    Pickled, it takes no graph along: the other process reads the ONNX file when it needs it.
    """

    onnx: Path | None
    runtime: str
    metadata: Metadata | None
    batches: tuple[Batch, ...]
    label: str
    engine: Path | None = None
    sidecar: Sidecar | None = None
    trust: bool = False
    emulated: bool = False
    in_hand: ir.Model | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key != "graph"}
        return kept | {"in_hand": None}

    @property
    def name(self) -> str:
        """How reports call it: the file that runs."""
        return str(self.engine or self.onnx)

    @cached_property
    def graph(self) -> ir.Model:
        """What the ONNX file holds; InputError for an engine that stands alone."""
        return self.in_hand or read_model(self._require_onnx())

    @property
    def precision(self) -> str:
        """fp32, fp16, int8, ...: that of the ONNX file."""
        return self.sidecar.precision if self.sidecar else precision_of(self.graph)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes worth running; at the optimal one all images, at others two batches."""
        sizes = {size for batch in self.batches for size in batch_sizes(batch)}
        if self.engine is not None:
            sizes |= {batch.largest for batch in self.batches}
        return tuple(sorted(sizes))

    @property
    def optimal(self) -> int:
        """The batch size it was made for."""
        return self.batches[0].optimal

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image: (C, H, W)."""
        if self.sidecar is not None:
            channels, height, width = self.sidecar.input_shape
            return channels, height, width
        metadata = self.require_metadata()
        return metadata.config["in_chans"], *metadata.preprocessing.img_size

    @property
    def sparse(self) -> bool:
        """Whether it drops tokens."""
        return self.metadata is not None and bool(self.metadata.keep_counts)

    @property
    def ideal(self) -> float:
        """The dense twin's multiply-accumulates over its own; 1.0 where nothing is dropped."""
        return 1.0 if self.metadata is None else self.metadata.ideal_speedup

    @property
    def rebuilt(self) -> bool:
        """Whether a changed copy of the graph is compiled anew, and so may round otherwise."""
        return self.engine is not None or find_runtime(self.runtime).compiles

    def require_metadata(self) -> Metadata:
        """Its metadata; ModelFileError for a foreign model."""
        if self.metadata is None:
            raise ModelFileError(
                f"{self.onnx or self.name} carries no dynexport metadata: "
                "give an ONNX file that `dynexport convert` wrote"
            )
        return self.metadata

    def in_runtime(self, runtime: str) -> Artifact:
        """The ONNX file it is, or was built from, in a runtime that takes ONNX."""
        if self.onnx is None:
            raise InputError(
                f"{runtime} needs the ONNX file the engine was built from: give it before `engine`"
            )
        label, emulated = _describe_half(self.graph, runtime)
        known = self.metadata
        return replace(
            self,
            runtime=runtime,
            batches=self.batches if known is None else (Batch.parse(known.batch),),
            label=label,
            engine=None,
            sidecar=None,
            emulated=emulated,
            in_hand=self.graph,
        )

    def as_served(self) -> Artifact:
        """The same with no emulation: what its users run, to be timed."""
        return replace(self, emulated=False, label=self.runtime) if self.emulated else self

    def open(self, threads: int | None = None, profile: bool = False) -> Runner:
        """Open it; ``threads`` are cores of the CPU, ``profile`` times layers.

        Raises what `dynexport.runtimes.open_runner` and `dynexport.engine.open_engine` raise.
        """
        if self.engine is not None:
            return open_engine(self.engine, trust=self.trust, profile=profile)
        if self.emulated:
            return open_runner(self.runtime, emulate_half(self.graph), threads, profile)
        return open_runner(self.runtime, self._require_onnx(), threads, profile)

    def open_probe(self, graph: ir.Model) -> Runner:
        """Open a changed copy of its graph in the same runtime.

        It has further outputs, or takes a choice to be replayed. Of an engine another one is built,
        with the same options.
        """
        if self.sidecar is not None:
            return open_alike(self.sidecar, graph)
        return open_runner(self.runtime, emulate_half(graph) if self.emulated else graph)

    def _require_onnx(self) -> Path:
        if self.onnx is None:
            raise InputError(
                f"{self.name} was built from an ONNX file that is not there: put it beside it"
            )
        return self.onnx


def find_artifact(
    model: str | Path | None = None,
    runtime: str | None = None,
    engine: str | Path | None = None,
    trust: bool = False,
) -> Artifact:
    """An ONNX file in a runtime (by default onnxruntime), or the engine that was built from it.

    An engine finds its ONNX file beside itself where none is given; ``trust`` opens it whatever
    its sidecar says. ModelFileError if dynexport did not write the ONNX file, EngineError if the
    engine was not built from it.
    """
    if engine is not None:
        if runtime is not None:
            raise InputError(
                f"`backend` {runtime} runs the ONNX file and `engine` an engine: give one of the "
                "two"
            )
        return _engine_artifact(Path(engine), None if model is None else Path(model), trust)
    if model is None:
        raise InputError("there is nothing to open: give an ONNX file, or `engine`, or both")
    path = existing_file(model, "an ONNX file")
    graph = read_model(path)
    return onnx_artifact(path, graph, read_metadata(path, graph), runtime or "onnxruntime")


def onnx_artifact(
    path: Path, graph: ir.Model, metadata: Metadata, runtime: str = "onnxruntime"
) -> Artifact:
    """An ONNX file in a runtime, of which the graph and the metadata are in hand."""
    label, emulated = _describe_half(graph, runtime)
    return Artifact(
        onnx=path,
        runtime=runtime,
        metadata=metadata,
        batches=(Batch.parse(metadata.batch),),
        label=label,
        emulated=emulated,
        in_hand=graph,
    )


def _describe_half(graph: ir.Model, runtime: str) -> tuple[str, bool]:
    """What reports call a graph in a runtime, and whether half precision is emulated in it, as the
    runtime declares (`Runtime.half`)."""
    declared = find_runtime(runtime)
    half = declared.half if computes_in_half(graph) else "computed"
    return runtime + HALF_NOTES[half], half == "emulated"


def _engine_artifact(engine: Path, model: Path | None, trust: bool) -> Artifact:
    facts = read_sidecar(engine, model, trust)
    return Artifact(
        onnx=facts.onnx_beside(engine) if model is None else model,
        runtime=facts.flavour,
        metadata=facts.metadata if facts.properties else None,
        batches=facts.ranges,
        label=f"{facts.flavour} {facts.version}",
        engine=engine,
        sidecar=facts,
        trust=trust,
    )


def batch_sizes(batch: Batch) -> tuple[int, ...]:
    """Sizes worth running: the only one, or the smallest, the optimal, and one just above it."""
    if not batch.dynamic:
        return (batch.optimal,)
    above = min(batch.optimal + 1, batch.largest)
    return tuple(sorted({batch.smallest, batch.optimal, above}))
