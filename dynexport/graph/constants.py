"""Constants added to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def add_constant(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer of this name and content."""
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


def content_of(constant: ir.Value) -> NDArray[Any]:
    """The numbers of an initializer."""
    assert constant.const_value is not None
    return constant.const_value.numpy()


def int64_constant(model: ir.Model, numbers: list[int] | int) -> ir.Value:
    """The initializer that holds these int64 numbers, or a single one as a scalar.

    It is made once a graph and named by them.
    """
    content = np.asarray(numbers, dtype=np.int64)
    listed = "_".join(str(number) for number in content.reshape(-1))
    name = f"const/{listed}" if content.ndim else f"const/scalar_{listed}"
    known = model.graph.initializers
    while name in known and not np.array_equal(content_of(known[name]), content):
        name += "_"
    return known[name] if name in known else add_constant(model, name, content)
