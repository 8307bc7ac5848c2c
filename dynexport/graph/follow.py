"""ONNX's own shape inference, over a graph in hand."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from dynexport.progress import unheard


def follow_shapes(model: ir.Model, *, strict: bool = True) -> None:
    """Note the shapes and types that follow from those of the inputs.

    Where one contradicts another, all stay as they were if ``strict``, else those that do not.
    """
    with unheard("onnx_ir"):  # a traceback where they do not follow
        ShapeInferencePass(check_type=strict, strict_mode=strict, data_prop=True)(model)
