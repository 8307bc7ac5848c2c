"""int8 with ranges read off images: the linear layers, and the rest in float32 or in fp16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynexport.compare.tolerances import Tolerances
from dynexport.precision.half import find_single, not_by_design
from dynexport.precision.kind import Job, PrecisionKind, PrecisionReport

if TYPE_CHECKING:
    import onnx_ir as ir

TOLERANCES = Tolerances("l2", outputs=1.2e-1, tie_margin=1.5e-1, ranking=3e-1)


def convert(graph: ir.Model, job: Job) -> tuple[ir.Model, PrecisionReport]:
    """int8 linear layers, and what calibration chose for each."""
    from dynexport.calibration.static_int8 import calibrate
    from dynexport.graph.half import to_half
    from dynexport.graph.quantise import store_in_half
    from dynexport.graph.rules.duplicates import merge_duplicates

    asked, kind = job.precision, job.precision.kind.half
    assert job.images is not None
    single = {} if kind is None else find_single(graph, job)
    typed, report = calibrate(
        graph,
        job.metadata,
        job.images,
        methods=asked.methods,
        target_agreement=asked.target_agreement if asked.fallback_to else None,
        on_progress=job.on_progress,
    )
    if kind is None:
        store_in_half(typed)
    else:
        typed = to_half(
            typed,
            kind,
            marks=job.metadata.dense_twin,
            single=single,
            half_io=asked.io == "half",
        )
        merge_duplicates(typed)  # scales that differed in float32 alone: one pair for queries, keys
    told = not_by_design(graph, single)
    return typed, PrecisionReport(asked.name, asked.io, job.looked_on, told, report)


def _is_quantised(graph: ir.Model) -> bool:
    from dynexport.graph.precision import is_quantised

    return is_quantised(graph)


PRECISIONS = (
    PrecisionKind(
        name="int8",
        help="calibrated on images; the rest in float32",
        tolerances=TOLERANCES,
        convert=convert,
        images="needed",
        recognise=_is_quantised,
        instead="int8-dynamic, which needs none",
    ),
    PrecisionKind(
        name="int8-fp16",
        help="the same, the rest in fp16; for GPUs",
        tolerances=TOLERANCES,
        convert=convert,
        images="needed",
        half="fp16",
        instead="int8-dynamic, which needs none",
    ),
)
