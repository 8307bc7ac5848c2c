"""From a float32 graph to a typed one: precision is in the ONNX file, one file a precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import onnx_ir as ir

from dynexport.errors import InputError, unknown_choice
from dynexport.precision.half import to_half


def _as_it_is(model: ir.Model) -> ir.Model:
    return model


PRECISIONS: Mapping[str, Callable[[ir.Model], ir.Model]] = MappingProxyType(
    {
        "fp32": _as_it_is,
        "fp16": partial(to_half, kind="fp16"),
    }
)
"""Name on the command line to what makes the typed graph of a float32 one. Not bf16, which
ONNX Runtime does not compute on a CPU: nothing is offered that was not verified."""


def require_precision(name: str) -> None:
    """InputError unless a precision has this name."""
    if name not in PRECISIONS:
        raise InputError(unknown_choice("precision", name, PRECISIONS))


def convert_precision(model: ir.Model, name: str) -> ir.Model:
    """A typed copy of a float32 graph (for fp32 the graph itself); InputError for a wrong name."""
    require_precision(name)
    return PRECISIONS[name](model)
