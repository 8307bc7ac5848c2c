"""What a report tells, as plain values: `report.json` holds them, the page shows them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynexport.bench import BenchResult, Gain
from dynexport.formats.metadata import Metadata
from dynexport.runtimes.nvml import GpuFacts
from dynexport.sweep.rows import Sweep
from dynexport.verify import Verification


@dataclass(frozen=True)
class Tile:
    """One picture: a ``label`` to stand under it, ``alt`` in words, ``uri`` a data URI."""

    label: str
    alt: str
    uri: str


@dataclass(frozen=True)
class Picture:
    """One image: itself and what is left of it after each stage.

    classes: the most probable ones and their probabilities, best first.
    """

    name: str
    classes: tuple[tuple[str, float], ...]
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Step:
    """A command that a shell takes as it stands, and what it does."""

    does: str
    command: str


@dataclass(frozen=True)
class EngineFacts:
    """An engine built from a model of the report; only its sidecar is read unless it runs here.

    file, size_bytes  its name and size
    runs_on           the GPU, or the compute capabilities, that it was built for
    layers, fused_attention  how many it has, and how many of them are attention in one piece
    verification, bench      None where it does not run here
    steps             the commands that make it and measure it again
    left_out          by section, why there is nothing: a sentence
    """

    file: str
    size_bytes: int
    flavour: str
    version: str
    runs_on: str
    precision: str
    batches: tuple[str, ...]
    layers: int
    fused_attention: int
    verification: Verification | None
    bench: BenchResult | None
    steps: tuple[Step, ...]
    left_out: dict[str, str]

    @property
    def idle(self) -> str | None:
        """Why it was neither verified nor timed; None where it was."""
        ran = self.verification is not None or self.bench is not None
        return None if ran else self.left_out["verification"]


@dataclass(frozen=True)
class ModelFacts:
    """One ONNX file that dynexport wrote.

    file, path    its name, and where it is as the user wrote it
    macs          multiply-accumulates for one image; ideal: the dense twin's over these
    verification  against its reference bundle; None where there is none
    bench         beside its dense twin; None where it was not timed
    pictures      what it kept of some images; pictures_of: where those are from
    engines       that were built from it
    left_out      by section ("verification", "latency", "layers", "pictures", "sensitivity"), why
                  there is nothing: a sentence
    steps         the commands that make it and measure it again
    """

    file: str
    path: str
    size_bytes: int
    opset: int
    metadata: Metadata
    macs: int
    ideal: float
    verification: Verification | None
    bench: BenchResult | None
    pictures: tuple[Picture, ...]
    pictures_of: str
    engines: tuple[EngineFacts, ...]
    left_out: dict[str, str]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Environment:
    """Where the report was made.

    made          date and time, ISO 8601, with the offset from UTC
    cpu           its name; cores: those this process may use; memory_bytes: of the machine; None
                  where the system does not tell
    packages      versions, by name
    runtimes      by name, version and what it can do here
    gpu_problem   why there is no usable GPU; None where there is one
    """

    made: str
    dynexport: str
    python: str
    platform: str
    cpu: str | None
    cores: int
    memory_bytes: int | None
    packages: dict[str, str]
    runtimes: dict[str, str]
    gpus: tuple[GpuFacts, ...]
    gpu_problem: str | None


@dataclass(frozen=True)
class Report:
    """All of it.

    html, json   the files written
    folder       what it is about
    sweep        that lies in the folder, if one does
    strangers    files of the folder that are not in it, by name, and why: a sentence
    """

    html: str
    json: str
    folder: str
    models: tuple[ModelFacts, ...]
    strangers: dict[str, str]
    environment: Environment
    sweep: Sweep | None
    steps: tuple[Step, ...]

    @property
    def verified(self) -> int:
        """How many models passed."""
        return sum(m.verification is not None and m.verification.passed for m in self.models)

    @property
    def name(self) -> str:
        """The folder, as the user wrote it where that names it."""
        named = Path(self.folder).name not in ("", "..")
        return self.folder if named else Path(self.folder).resolve().name or self.folder

    @property
    def engines(self) -> tuple[EngineFacts, ...]:
        """Of all models."""
        return tuple(engine for model in self.models for engine in model.engines)

    @property
    def timed(self) -> tuple[Gain, ...]:
        """Over the dense twin, of every model that has one and was timed."""
        gains = (m.bench.gain for m in self.models if m.bench is not None)
        return tuple(gain for gain in gains if gain is not None)

    def to_plain(self) -> dict[str, Any]:
        """As `report.json` holds it: plain values.

        Of pictures what they show, and null where a number is none.
        """
        plain = json.dumps(dataclasses.asdict(self))
        facts: dict[str, Any] = json.loads(plain, parse_constant=lambda constant: None)
        for model in facts["models"]:
            for picture in model["pictures"]:
                picture["tiles"] = [tile["alt"] for tile in picture["tiles"]]
        return facts
