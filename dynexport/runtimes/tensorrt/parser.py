"""What TensorRT's parser makes of an ONNX file, and what TensorRT says meanwhile.

Networks are strongly typed, the only kind TensorRT 11 knows: precision is in the ONNX file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynexport.runtimes.tensorrt.editions import Api, Edition

if TYPE_CHECKING:
    import tensorrt

NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
LAYER = re.compile(r"^Name: (.*?), LayerType: (\w+),.*?(?:Metadata: (.*))?$", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """A node that TensorRT's parser refuses: its name and operator in the ONNX file, and why."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.operator}): {self.reason}"


@dataclass(frozen=True)
class Layer:
    """A layer of an engine: its name, its kind, and the ONNX nodes it was made of."""

    name: str
    kind: str
    nodes: tuple[str, ...]


def parse(edition: Edition, model: bytes | Path) -> tuple[Problem, ...]:
    """What the parser of a edition refuses of an ONNX file, or of its bytes."""
    return Network(edition.load(), model).problems


class BuildLog:
    """What TensorRT says while it parses and builds, as far as it is of use."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._layers = ""

    def take(self, severe: bool, message: str) -> None:
        if severe:
            self.errors.append(message)
        elif message.startswith("Layers:"):
            self._layers = message

    def complaint(self) -> str:
        """The first error, without the places in TensorRT's sources it was raised at."""
        if not self.errors:
            return "it did not say why"
        text = " ".join(self.errors[0].split())
        text = re.sub(r"^.*?Error Code \d+: (?:API Usage Error|Myelin) \((.*)\)$", r"\1", text)
        text = re.sub(r"^.*?Error Code \d+: (\w+) \((.*)\)$", r"\1: \2", text)
        return re.sub(r"\.? In \w+ at \S+(?= |$)", "", text).strip().rstrip(".")

    def layers(self) -> tuple[Layer, ...]:
        """The engine's layers, from the list the builder prints at its end."""
        return tuple(
            Layer(name, kind, tuple(NODE.findall(nodes or "")))
            for name, kind, nodes in LAYER.findall(self._layers)
        )


class Network:
    """A parsed ONNX file, with the builder and the log that must live as long as it does."""

    def __init__(self, api: Api, model: bytes | Path) -> None:
        self.log = BuildLog()
        logger = make_logger(api, self.log)
        self.builder = api.Builder(logger)
        typed = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self.definition = self.builder.create_network(0 if typed is None else 1 << int(typed))
        self._parser = api.OnnxParser(self.definition, logger)
        if isinstance(model, bytes):
            taken = bool(self._parser.parse(model))
        else:
            taken = bool(self._parser.parse_from_file(str(model)))
        errors = [self._parser.get_error(place) for place in range(self._parser.num_errors)]
        self.problems = tuple(_problem(error) for error in errors)
        if not taken and not self.problems:
            self.problems = (Problem("", "", self.log.complaint()),)


def _problem(error: tensorrt.ParserError) -> Problem:
    # the first line says it; TensorRT's own name of the failed assertion is of no use to anyone
    reason = re.sub(r"^Assertion failed: \S+: ", "", error.desc().strip())
    reason = re.sub(r'^(?:Assertion failed: )?[^"]*?&& "?', "", reason).rstrip('"')
    lines = [line for line in reason.splitlines() if not line.startswith("Invalid Node")]
    first = re.sub(r"^.*?Error Code \d+: [\w ]+ \((.*?)(?:\. In .*)?\)$", r"\1", (lines or [""])[0])
    if first in ("", "false"):
        first = "the parser does not support it"
    return Problem(error.node_name(), error.node_operator(), first.rstrip("."))


def make_logger(api: Api, log: BuildLog) -> tensorrt.ILogger:
    """A logger of this TensorRT that tells ``log``; it must outlive what it is given to."""

    class Logger(api.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
            log.take(int(severity) <= int(api.ILogger.ERROR), message)

    return Logger()
