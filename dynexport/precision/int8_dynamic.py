"""Dynamic int8: activations quantised as they come, each batch with a scale of its own; for CPUs.

No images are needed, and no TensorRT takes it. ONNX Runtime's quantiser writes the graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynexport.precision.int8 import TOLERANCES, measure_rounding
from dynexport.precision.kind import Job, PrecisionKind, PrecisionReport
from dynexport.progress import unheard

if TYPE_CHECKING:
    import onnx_ir as ir

    from dynexport.graph.linear_layers import LinearLayer


def convert(graph: ir.Model, job: Job) -> tuple[ir.Model, PrecisionReport]:
    """Every linear layer that ranks nothing, in int8."""
    from dynexport.graph.linear_layers import find_linear_layers
    from dynexport.graph.quantise import store_in_half
    from dynexport.graph.rules.duplicates import merge_duplicates

    layers = [layer for layer in find_linear_layers(graph) if not layer.ranks]
    typed = quantise_dynamically(graph, layers)
    merge_duplicates(typed)  # ONNX Runtime writes a zero point for each layer
    store_in_half(typed)
    rounding = measure_rounding(graph, typed, job)
    return typed, PrecisionReport(job.precision.name, rounding=rounding)


PRECISIONS = (
    PrecisionKind(
        name="int8-dynamic",
        help="ranges from each batch; for CPUs",
        tolerances=TOLERANCES,
        convert=convert,
        engines=False,
        instead="int8-fp16 or int8, which are calibrated",
        repeats=0.75,
    ),
)


def quantise_dynamically(model: ir.Model, layers: Sequence[LinearLayer]) -> ir.Model:
    """A copy of a float32 graph with these layers in int8, quantised at run time.

    Weights have a scale for each output and seven bits, for the reason that
    `dynexport.graph.quantise` gives. MissingExtraError without ONNX Runtime.
    """
    import onnx
    import onnx_ir as ir

    from dynexport.graph.batch import infer_shapes
    from dynexport.runtimes.onnxruntime import LIBRARY

    LIBRARY.require()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = ir.serde.serialize_model(model)
    for stated in list(proto.graph.value_info):  # it turns a Gemm's weights over, not what is
        if stated.name in model.graph.initializers:  # stated of their shape, as onnx-ir may do
            proto.graph.value_info.remove(stated)
    with unheard("root"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
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
