"""Small integer constants, shared by content."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def int64_constant(model: ir.Model, numbers: list[int]) -> ir.Value:
    """The initializer that holds these int64 numbers, made once a graph and named by them."""
    name = "const/" + "_".join(str(number) for number in numbers)
    initializers = model.graph.initializers
    if name not in initializers:
        tensor = ir.tensor(np.asarray(numbers, dtype=np.int64), name=name)
        model.graph.register_initializer(
            ir.Value(
                name=name,
                shape=ir.Shape([len(numbers)]),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        )
    return initializers[name]
