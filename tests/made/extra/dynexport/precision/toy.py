"""Weights with bf16's 8 bits, computed with in float32."""

from dynexport.compare.tolerances import Tolerances
from dynexport.precision import PrecisionKind, PrecisionReport


def weights(graph):
    """The matrices and vectors of float32, and their bits."""
    for value in graph.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == "float32" and array.size > 1:
            yield value, array.view("uint32")


def convert(graph, job):
    import onnx_ir as ir

    rounded = graph.clone()
    for value, bits in weights(rounded):
        value.const_value = ir.tensor((bits & 0xFFFF0000).view("float32"), name=value.name)
    return rounded, PrecisionReport(job.precision.name)


def recognise(graph):
    low_bits = [bits & 0x0000FFFF for _, bits in weights(graph)]
    return bool(low_bits) and not any(bits.any() for bits in low_bits)


TOLERANCES = Tolerances("max", outputs=5e-2, tie_margin=6e-2, ranking=1.5e-1)
PRECISIONS = (PrecisionKind("toy", "weights of 8 bits", TOLERANCES, convert, recognise=recognise),)
