"""Reading ONNX files: what is needed of one, or one clear sentence. And writing them.

A file holds 2 GiB, as protocol buffers do. The weights of a larger model stand in another file
beside it, ``model.onnx.data``, and are read from there when they are needed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from dynexport.errors import ModelFileError, first_line, root_of
from dynexport.files import existing_file
from dynexport.files.kinds import ONNX, other_kind
from dynexport.formats.metadata import PREFIX, Metadata
from dynexport.formats.soundness import find_problem
from dynexport.formats.tensors import outside, size_of
from dynexport.progress import unheard, unheard_below

LARGEST_FILE = 2**31 - 2**25
"""Bytes of weights that go into an ONNX file (protocol buffers), with room for the graph."""

DATA_SHA256 = f"{PREFIX}data_sha256"
"""The metadata entry that tells a file's data from others: so its own SHA-256 stands for both."""


@dataclass(frozen=True, eq=False)
class Exported:
    """A graph, and what is known of it; the graph itself does not carry it yet."""

    graph: ir.Model
    metadata: Metadata

    def write(self, path: Path) -> int:
        """Write the ONNX file, the graph with its metadata; see `write_model`."""
        self.graph.metadata_props.update(self.metadata.to_properties())
        return write_model(self.graph, path)


def read_model(path: str | Path) -> ir.Model:
    """Load an ONNX file; ModelFileError if it is none, is cut short, or is wrong inside.

    Its nodes stand in the order they run, also where the file has them in another: some tools
    append theirs at the end, and runtimes take that. Sizes that the file has as -1 are open.
    """
    path = existing_file(path, "an ONNX file")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf and onnx each raise their own kinds for a damaged file
        raise _unreadable(path) from None
    if not proto.graph.node:
        raise _unreadable(path)
    model = _read_graph(proto, path)
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
        raise ModelFileError(first_line(error)) from None


def _read_graph(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """The graph of a file that loads; ModelFileError says what is wrong inside."""
    try:
        problem = find_problem(proto, path.parent)
        if not problem:
            with unheard("onnx_ir"):
                return _deserialize(proto, path.parent)
    except MemoryError:
        raise
    except Exception as error:  # what nobody thought of
        problem = first_line(root_of(error))
    raise ModelFileError(f"{path} is no valid ONNX file: {problem}; export it again")


def _deserialize(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    """The graph; weights from other files are taken into memory where one file could hold them."""
    if proto.ByteSize() + sum(map(size_of, outside(proto))) <= LARGEST_FILE:
        onnx.load_external_data_for_model(proto, str(folder))
    model = ir.serde.deserialize_model(proto)
    ir.external_data.set_base_dir(model.graph, folder)
    return model


def _unreadable(path: Path) -> ModelFileError:
    """The error for a file that holds no graph: of another kind, or damaged."""
    other = other_kind(path, ONNX)
    return ModelFileError(other or f"{path} is not a complete ONNX file: export it again")


def read_metadata(path: str | Path, model: ir.Model | None = None) -> Metadata:
    """What dynexport wrote into an ONNX file; ModelFileError if it did not write it."""
    model = model or read_model(path)
    return Metadata.from_properties(dict(model.metadata_props), str(path))


def to_bytes(model: ir.Model) -> bytes:
    """The ONNX file of a graph, the same bytes for the same graph.

    Of one that `is_large` use `write_model`, or `as_source`.
    """
    proto: onnx.ModelProto = ir.serde.serialize_model(model)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def is_large(model: ir.Model) -> bool:
    """Whether a graph holds more than goes into one file."""
    return size_of_weights(model) > LARGEST_FILE


def size_of_weights(model: ir.Model) -> int:
    """Bytes."""
    stored = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in stored if tensor is not None)


def data_beside(path: Path) -> Path:
    """``model.onnx`` to ``model.onnx.data``, where the weights of a large model stand."""
    return path.with_name(f"{path.name}.data")


def write_model(model: ir.Model, path: Path) -> int:
    """Write an ONNX file, and its data beside it where the model `is_large`; returns their bytes.

    The same files for the same graph.
    """
    if not is_large(model):
        model.metadata_props.pop(DATA_SHA256, None)
        content = to_bytes(model)
        path.write_bytes(content)
        return len(content)
    written = model.clone()
    size = _move_outside(written, data_beside(path))
    content = to_bytes(written)
    path.write_bytes(content)
    return size + len(content)


def _move_outside(model: ir.Model, data: Path) -> int:
    """Write a graph's weights to a file, where it finds them from here on; returns the bytes."""
    digest, size = hashlib.sha256(), 0
    with data.open("wb") as stream:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < LEAST_OUTSIDE:
                continue
            content, shape = tensor.tobytes(), ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor(
                data.name, size, len(content), tensor.dtype, shape=shape, name=name
            )
            for part in (content, bytes(-len(content) % ALIGNED)):
                digest.update(part)
                size += stream.write(part)
    model.metadata_props[DATA_SHA256] = digest.hexdigest()
    return size


LEAST_OUTSIDE = 1024
"""Bytes of the smallest weight that stands in the other file: runtimes look into small ones."""

ALIGNED = 4096
"""Where weights begin in it: at multiples of this, so that each can be mapped into memory."""


@contextmanager
def as_source(model: ir.Model) -> Iterator[bytes | Path]:
    """A graph as runtimes open it: the bytes of a file, or where one stands for as long."""
    if not is_large(model):
        yield to_bytes(model)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        write_model(model, path)
        yield path


def fingerprint_of(model: ir.Model) -> str:
    """What tells a graph from every other, hexadecimal."""
    with as_source(model) as source:
        content = source if isinstance(source, bytes) else source.read_bytes()
    return hashlib.sha256(content).hexdigest()
