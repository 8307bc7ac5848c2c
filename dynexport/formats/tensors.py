"""What a tensor of an ONNX file holds, and where."""

from __future__ import annotations

import math
import os
from pathlib import Path

import onnx_ir as ir
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

MOST_DIMENSIONS = 32
"""Of an array: numpy's, from its first releases on."""

DATA = (
    *("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"),
    "string_data",
)
"""Fields that hold values."""


def tensor_problem(tensor: TensorProto, folder: Path) -> str:
    """Why a tensor of a file in this folder cannot be read; "" where it can."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        return f"is of type {tensor.data_type}, which is none of ONNX's"
    if len(tensor.dims) > MOST_DIMENSIONS or any(size < 0 for size in tensor.dims):
        return f"has a shape that none can have, {_shape(tensor)}"
    if tensor.data_location == TensorProto.EXTERNAL:
        return _problem_outside(tensor, folder)
    if math.prod(tensor.dims) and not any(len(getattr(tensor, field)) for field in DATA):
        return f"of shape {_shape(tensor)} holds no values"
    try:
        ir.serde.deserialize_tensor(tensor).numpy()
    except Exception:  # as many kinds as there are ways to store values
        return f"holds other values than its type and its shape, {_shape(tensor)}, ask for"
    return ""


def _problem_outside(tensor: TensorProto, folder: Path) -> str:
    """Why values in a file beside cannot be read."""
    try:
        place = ExternalDataInfo(tensor)
        offset, length = place.offset or 0, place.length
        path = data_path(folder, place.location)
    except (ValueError, TypeError, OverflowError):
        return "lies in another file, and what is said of the place there is damaged"
    if path is None:
        return f"lies in {place.location!r}, which is no file in the folder of the model"
    if not path.is_file():
        return f"lies in {place.location}, which is not there: copy it beside the model"
    if not os.access(path, os.R_OK):
        return f"lies in {place.location}, which cannot be read: check its permissions"
    if tensor.data_type == TensorProto.STRING:
        return "is of texts, which cannot lie in another file"
    size = size_of(tensor)
    if offset < 0 or length not in (None, size) or offset + size > path.stat().st_size:
        return f"lies in {place.location}, which does not hold it: it was cut short, or is another"
    return ""


def data_path(folder: Path, location: str) -> Path | None:
    """Where external data lie; None for a place outside the folder of the model, or no file's.

    ValueError for what no path can be.
    """
    path, base = Path(os.path.realpath(folder / location)), Path(os.path.realpath(folder))
    inside = base in path.parents and not os.path.isabs(location)
    return path if inside and (path.is_file() or not path.exists()) else None


def outside(model: ModelProto) -> list[TensorProto]:
    """The weights whose values stand in other files."""
    stored = model.graph.initializer
    return [tensor for tensor in stored if tensor.data_location == TensorProto.EXTERNAL]


def size_of(tensor: TensorProto) -> int:
    """The bytes that a tensor's shape and type ask for."""
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return -(-bits // 8)


def _shape(tensor: TensorProto) -> str:
    shown = ", ".join(map(str, tensor.dims[:8]))
    return f"[{shown}{', ...' if len(tensor.dims) > 8 else ''}]"
