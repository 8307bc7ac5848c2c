"""Dynamic int8: activations quantised as they come, each batch with a scale of its own; for CPUs.

No images are needed, and no TensorRT takes it. ONNX Runtime's quantiser writes the graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from dynexport.errors import MissingExtraError
from dynexport.graph.batch import infer_shapes
from dynexport.graph.linear_layers import LinearLayer
from dynexport.progress import unheard


def quantise_dynamically(model: ir.Model, layers: Sequence[LinearLayer]) -> ir.Model:
    """A copy of a float32 graph with these layers in int8, quantised at run time.

    Weights have a scale for each output and seven bits, for the reason that
    `dynexport.graph.quantise` gives. MissingExtraError without ONNX Runtime.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    with unheard("root"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            ir.serde.serialize_model(model),
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=[layer.node for layer in layers],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        typed = ir.serde.deserialize_model(onnx.load(str(path)))
    typed.metadata_props.update(model.metadata_props)
    infer_shapes(typed)
    typed.producer_name, typed.producer_version = model.producer_name, model.producer_version
    return typed
