"""fp16 and bf16: weights and activations in half, but for what `dynexport.graph.half` leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynexport.compare.tolerances import Tolerances
from dynexport.precision.kind import Job, PrecisionKind, PrecisionReport

if TYPE_CHECKING:
    import onnx_ir as ir

    from dynexport.graph.half import Kind


def convert(graph: ir.Model, job: Job) -> tuple[ir.Model, PrecisionReport]:
    """Half precision, and the nodes that it cannot hold in float32."""
    from dynexport.graph.half import to_half

    kind, half_io = required_half(job), job.precision.io == "half"
    single = find_single(graph, job)
    typed = to_half(graph, kind, marks=job.metadata.dense_twin, single=single, half_io=half_io)
    told = not_by_design(graph, single)
    return typed, PrecisionReport(job.precision.name, job.precision.io, job.looked_on, told)


def required_half(job: Job) -> Kind:
    """What the precision calls half."""
    kind = job.precision.kind.half
    assert kind is not None
    return kind


def find_single(graph: ir.Model, job: Job) -> dict[str, float]:
    """Nodes that compute with values too large for half, on the images: the largest, by name."""
    from dynexport.calibration.overflow import find_overflow

    kind, half_io = required_half(job), job.precision.io == "half"
    step = f"look for values that {kind} cannot hold on {job.looked_on}"
    job.on_progress(step, 0, 1)
    single = find_overflow(graph, job.batches(), kind, half_io=half_io)
    job.on_progress(step, 1, 1)
    return single


def not_by_design(graph: ir.Model, single: dict[str, float]) -> dict[str, float]:
    """Those that would be in half, were the values smaller: what ranks tokens never is."""
    from dynexport.graph.half import ranking_nodes

    by_design = {node.name for node in ranking_nodes(graph, classes=False)}
    return {name: largest for name, largest in single.items() if name not in by_design}


def _weights_are(graph: ir.Model, dtype: str) -> bool:
    from dynexport.graph.precision import type_of_weights

    return type_of_weights(graph).name == dtype


PRECISIONS = (
    PrecisionKind(
        name="fp16",
        help="half precision",
        tolerances=Tolerances("max", outputs=5e-3, tie_margin=6e-3, ranking=2e-2),
        convert=convert,
        images="looked at",
        half="fp16",
        recognise=lambda graph: _weights_are(graph, "FLOAT16"),
    ),
    PrecisionKind(
        name="bf16",
        help="float32's range, 8 bits",
        tolerances=Tolerances("max", outputs=5e-2, tie_margin=1.2e-1, ranking=1.5e-1),
        convert=convert,
        images="looked at",
        half="bf16",
        recognise=lambda graph: _weights_are(graph, "BFLOAT16"),
    ),
)
