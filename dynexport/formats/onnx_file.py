"""Reading ONNX files: what is needed of one, or one clear sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from dynexport.errors import ModelFileError
from dynexport.files import existing_file
from dynexport.files.kinds import ONNX, other_kind
from dynexport.formats.metadata import Metadata
from dynexport.progress import unheard_below


@dataclass(frozen=True, eq=False)
class Exported:
    """A graph, and what is known of it; the graph itself does not carry it yet."""

    graph: ir.Model
    metadata: Metadata

    def to_bytes(self) -> bytes:
        """The ONNX file: the graph with its metadata."""
        self.graph.metadata_props.update(self.metadata.to_properties())
        return to_bytes(self.graph)


def read_model(path: str | Path) -> ir.Model:
    """Load an ONNX file; ModelFileError if it is none, or is cut short.

    Its nodes stand in the order they run, also where the file has them in another: some tools
    append theirs at the end, and runtimes take that. Sizes that the file has as -1 are open.
    """
    path = existing_file(path, "an ONNX file")
    try:
        proto = onnx.load(str(path))
        if not proto.graph.node:
            raise ValueError("no nodes")
        model = ir.serde.deserialize_model(proto)
    except Exception:  # protobuf, onnx and ir each raise their own kinds for a damaged file
        raise _unreadable(path) from None
    try:
        model.graph.sort()
        for function in model.functions.values():
            function.sort()
    except ValueError:
        raise ModelFileError(
            f"{path} holds nodes that wait for each other's values: export it again"
        ) from None
    for value in model.graph.inputs:
        _open_negative_sizes(value, str(value.name))
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            _open_negative_sizes(value)
    return model


def _open_negative_sizes(value: ir.Value, name: str = "") -> None:
    """Sizes written as -1, as people edit files, are open: named after an input, else unknown."""
    sizes = [] if value.shape is None else list(value.shape)
    if any(isinstance(size, int) and size < 0 for size in sizes):
        value.shape = ir.Shape(
            (f"{name}_{axis}" if name else None) if isinstance(size, int) and size < 0 else size
            for axis, size in enumerate(sizes)
        )


def require_valid(model: ir.Model) -> None:
    """ModelFileError unless a graph is as ONNX has it, in its checker's words."""
    try:
        with unheard_below():
            onnx.checker.check_model(ir.serde.serialize_model(model))
    except Exception as error:  # the checker raises its own kind, and others for odd files
        raise ModelFileError(str(error).strip().splitlines()[0]) from None


def _unreadable(path: Path) -> ModelFileError:
    """The error for a file that holds no graph: of another kind, or damaged."""
    other = other_kind(path, ONNX)
    return ModelFileError(other or f"{path} is not a complete ONNX file: export it again")


def read_metadata(path: str | Path, model: ir.Model | None = None) -> Metadata:
    """What dynexport wrote into an ONNX file; ModelFileError if it did not write it."""
    model = model or read_model(path)
    return Metadata.from_properties(dict(model.metadata_props), str(path))


def to_bytes(model: ir.Model) -> bytes:
    """The ONNX file of a graph, the same bytes for the same graph."""
    proto: onnx.ModelProto = ir.serde.serialize_model(model)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
