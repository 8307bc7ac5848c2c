"""What a precision says of itself, and what converting to it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dynexport.compare.tolerances import OwnRounding, Tolerances

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from dynexport.calibration.static_int8 import Int8Report
    from dynexport.formats.metadata import Metadata
    from dynexport.images import ImageSet
    from dynexport.precision import Precision
    from dynexport.progress import OnProgress


@dataclass(frozen=True)
class PrecisionReport:
    """What was done to the graph.

    name, io  as asked for
    images    what it was calibrated on, or looked over for values too large; "" where nothing was
    single    nodes that stay in float32 as half precision cannot hold what they compute with: the
              largest magnitude of it, by name. What ranks tokens stays so by design
    int8      what calibration chose; None where nothing is calibrated
    rounding  how far it lies from the float32 graph; None where the precision's own tolerances
              say enough
    """

    name: str
    io: str = "fp32"
    images: str = ""
    single: dict[str, float] = field(default_factory=dict)
    int8: Int8Report | None = None
    rounding: OwnRounding | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """What converting a graph to a precision is given beside the graph.

    precision  what was asked for
    metadata   of the graph
    images     `Precision.open_images`'s; None where it has none
    pictures   float32 (P, C, H, W), to look on where there are no images
    """

    precision: Precision
    metadata: Metadata
    images: ImageSet | None
    pictures: NDArray[np.float32]
    on_progress: OnProgress

    @property
    def looked_on(self) -> str:
        """What reports call the images."""
        if self.images is None:
            return f"{len(self.pictures)} reference images"
        return f"{self.images.count} images of {self.images.source.name}"

    def batches(self) -> Iterable[NDArray[np.float32]]:
        """Images, or the pictures, float32 (B, C, H, W), in batches that the graph takes."""
        from dynexport.calibration.running import batch_size

        size = batch_size(self.metadata)
        if self.images is not None:
            return self.images.batches(size)
        return (self.pictures[at : at + size] for at in range(0, len(self.pictures), size))


@dataclass(frozen=True)
class PrecisionKind:
    """A precision, as its file in this folder declares it.

    name        on the command line
    help        what it is, a phrase
    tolerances  what a sound file of it stays within; docs/verification.md has what was measured
    convert     a typed copy of a float32 graph, and what was done
    images      "needed": ranges are read off them, for each layer, so that single layers can be
                raised back; "looked at", where there are some, for values too large; or "none"
    half        what it calls half, in which inputs and outputs can be too; None: nothing
    engines     whether TensorRT has operators for it
    instead     what to choose where it cannot be had: without images, or for TensorRT
    recognise   whether a graph is of this precision; None where `dynexport.graph.precision` tells
    repeats     within what share of a file's own rounding every runtime gives the answers that it
                gave when it was made, which are recorded; None: none are
    """

    name: str
    help: str
    tolerances: Tolerances
    convert: Callable[[ir.Model, Job], tuple[ir.Model, PrecisionReport]]
    images: Literal["needed", "looked at", "none"] = "none"
    half: Literal["fp16", "bf16"] | None = None
    engines: bool = True
    instead: str = ""
    recognise: Callable[[ir.Model], bool] | None = None
    repeats: float | None = None
