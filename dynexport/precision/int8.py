"""int8 with ranges read off images: the linear layers, and the rest in float32 or in fp16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynexport.compare.tolerances import OwnRounding, Tolerances
from dynexport.precision.half import find_single, not_by_design
from dynexport.precision.kind import Job, PrecisionKind, PrecisionReport

if TYPE_CHECKING:
    import onnx_ir as ir

TOLERANCES = Tolerances("l2", outputs=1.2e-1, tie_margin=2e-1, ranking=3e-1)


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
    told, rounding = not_by_design(graph, single), measure_rounding(graph, typed, job)
    return typed, PrecisionReport(asked.name, asked.io, job.looked_on, told, report, rounding)


def measure_rounding(graph: ir.Model, typed: ir.Model, job: Job) -> OwnRounding:
    """How far a typed graph lies from the float32 one.

    On images that calibration held out, where there are any, and those of the reference bundle.
    """
    from dynexport.calibration.rounding import compare_under_one_choice
    from dynexport.calibration.running import batch_size
    from dynexport.calibration.static_int8 import held_out_batches

    size = batch_size(job.metadata)
    given = [job.pictures[at : at + size] for at in range(0, len(job.pictures), size)]
    if job.images is not None:
        given += held_out_batches(job.images, size)
    step = f"measure how far {job.precision.name} lies from float32"
    job.on_progress(step, 0, 1)
    rounding = compare_under_one_choice(graph, typed, job.metadata, given)
    job.on_progress(step, 1, 1)
    return rounding


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
        repeats=0.5,
    ),
    PrecisionKind(
        name="int8-fp16",
        help="the same, the rest in fp16; for GPUs",
        tolerances=TOLERANCES,
        convert=convert,
        images="needed",
        half="fp16",
        instead="int8-dynamic, which needs none",
        repeats=1.5,
    ),
)
