"""float32, as it was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynexport.compare.tolerances import Tolerances
from dynexport.precision.kind import Job, PrecisionKind, PrecisionReport

if TYPE_CHECKING:
    import onnx_ir as ir


def convert(graph: ir.Model, job: Job) -> tuple[ir.Model, PrecisionReport]:
    """The graph itself."""
    return graph, PrecisionReport("fp32")


PRECISIONS = (
    PrecisionKind(
        name="fp32",
        help="as it was trained",
        tolerances=Tolerances("max", outputs=1e-4, tie_margin=1e-4, ranking=1e-4),
        convert=convert,
        recognise=lambda graph: True,  # asked last
    ),
)
