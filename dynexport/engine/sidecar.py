"""The sidecar of an engine: what it is, for whom, and how to make it again.

``model.engine.json`` stands beside ``model.engine``. Opening an engine runs native code of the
file, so the sidecar is read and compared first: with the engine's bytes, and with the TensorRT and
the GPU that are here. It guards against mistakes, not against someone who writes both files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynexport.errors import DynexportError, EngineError
from dynexport.files import existing_file, sha256_of
from dynexport.files.kinds import ENGINE, other_kind
from dynexport.formats.metadata import Batch, Metadata
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.runtimes.tensorrt.parser import Layer

FORMAT = 1


@dataclass(frozen=True)
class Sidecar:
    """What is known of an engine.

    flavour, version   the TensorRT that built it
    gpu, capabilities  the GPU it was built on, if only that runs it; compute capabilities that do
    precision          fp32, fp16, ...: that of the ONNX file
    batches            a range of batch sizes for each profile
    input_shape        of one image: (C, H, W)
    engine_sha256, onnx_sha256, onnx   the engine's bytes, the file it was built from and its name
    options, seconds   how it was built, and how long that took
    layers             what it is made of
    properties         the metadata of the ONNX file, if dynexport wrote it
    """

    flavour: str
    version: str
    gpu: str | None
    capabilities: tuple[str, ...]
    precision: str
    batches: tuple[str, ...]
    input_shape: tuple[int, ...]
    engine_sha256: str
    onnx_sha256: str
    onnx: str
    options: BuildOptions
    seconds: float
    layers: tuple[Layer, ...]
    properties: dict[str, str]

    @staticmethod
    def path_beside(engine: Path) -> Path:
        """``NAME.engine`` to ``NAME.engine.json``."""
        return engine.with_name(engine.name + ".json")

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def load(cls, engine: Path) -> Sidecar:
        """The sidecar beside an engine; EngineError if there is none, or it is damaged."""
        path = cls.path_beside(engine)
        if not path.is_file():
            raise EngineError(
                other_kind(engine, ENGINE)
                or f"{engine} has no sidecar {path.name}, so nobody knows what it was built for: "
                f"{REBUILD}, or give `trust` if you know where it comes from"
            )
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise ValueError("format")
            values["options"] = BuildOptions(**_tuples(values["options"], OPTION_LISTS))
            values["layers"] = [Layer(**_tuples(layer, ("nodes",))) for layer in values["layers"]]
            facts = cls(**_tuples(values, LISTS))
            if not facts._sound():
                raise TypeError("a field")
            return facts
        except UNREADABLE:
            raise EngineError(f"{path} is damaged: {REBUILD}") from None

    def _sound(self) -> bool:
        """Whether every field read from a file is what it should be."""
        for batch in self.batches:
            Batch.parse(batch)
        options = dataclasses.asdict(self.options).items()
        texts = (
            *(self.flavour, self.precision, self.engine_sha256, self.onnx_sha256),
            *("" if self.gpu is None else self.gpu, *self.properties.values()),
            *(text for layer in self.layers for text in (layer.name, layer.kind, *layer.nodes)),
        )
        return (
            all(isinstance(text, str) for text in texts)
            and re.fullmatch(r"\d+(\.\d+)+", self.version) is not None
            and len(self.capabilities) > 0
            and all(re.fullmatch(r"\d+\.\d\+?", target) for target in self.capabilities)
            and len(self.batches) > 0
            and len(self.input_shape) == 3
            and all(isinstance(size, int) and size > 0 for size in self.input_shape)
            and Path(self.onnx).name == self.onnx
            and isinstance(self.seconds, (int, float))
            and all(isinstance(value, KINDS[name]) for name, value in options)
        )

    @property
    def fused_attention(self) -> int:
        """How many attentions run as one layer each.

        TensorRT names those after multi-head attention.
        """
        return sum("mha" in layer.name for layer in self.layers)

    @property
    def ranges(self) -> tuple[Batch, ...]:
        """The ranges of batch sizes, a profile each."""
        return tuple(map(Batch.parse, self.batches))

    def onnx_beside(self, engine: Path) -> Path | None:
        """The ONNX file that ``engine`` was built from, if it stands beside it unchanged."""
        beside = engine.with_name(self.onnx)
        return beside if beside.is_file() and sha256_of(beside) == self.onnx_sha256 else None

    @property
    def metadata(self) -> Metadata:
        """The metadata of the ONNX file it was built from; ModelFileError if it had none."""
        return Metadata.from_properties(self.properties, self.onnx)


UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
    DynexportError,  # of options or batches that are none
)
"""What reading a damaged sidecar may raise."""

REBUILD = "build it again with `dynexport build`"


LISTS = ("capabilities", "batches", "input_shape", "layers")
OPTION_LISTS = ("compute_capabilities",)
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("workspace_mib", "optimization_level", "dla_core"), (int, type(None))),
    **dict.fromkeys(("tf32", "version_compatible", "hardware_compatible"), (bool,)),
    **dict.fromkeys(("refit", "strip_weights"), (bool,)),
    "compute_capabilities": (tuple,),
    "timing_cache": (str, type(None)),
}
"""Of each option of `BuildOptions`, the types it may have."""


def _tuples(values: dict[str, Any], lists: tuple[str, ...]) -> dict[str, Any]:
    """Fields as the dataclasses have them; TypeError where one of ``lists`` is no list."""
    if not all(isinstance(values[name], list) for name in lists):
        raise TypeError("a list")
    return {key: tuple(value) if key in lists else value for key, value in values.items()}


def read_plan(engine: Path, facts: Sidecar | None) -> bytes:
    """The bytes of an engine; EngineError unless they are those its sidecar was written for."""
    plan = existing_file(engine, "an engine that `dynexport build` wrote").read_bytes()
    if facts is not None and hashlib.sha256(plan).hexdigest() != facts.engine_sha256:
        raise EngineError(
            f"{engine} was cut short or changed: its sidecar describes another file; {REBUILD}"
        )
    return plan
