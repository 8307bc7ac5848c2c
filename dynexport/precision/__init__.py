"""From a float32 graph to a typed one: precision is in the ONNX file, one file a precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration import METHODS, require_method
from dynexport.calibration.trial import batch_size
from dynexport.errors import InputError, unknown_choice
from dynexport.formats.metadata import Metadata
from dynexport.graph.linear_layers import find_linear_layers
from dynexport.graph.quantise import store_in_half
from dynexport.images import ImageSet, Preprocessing, open_images
from dynexport.precision.half import Kind, ranking_nodes, to_half
from dynexport.precision.int8 import Int8Report, calibrate
from dynexport.precision.int8_dynamic import quantise_dynamically
from dynexport.precision.overflow import find_overflow
from dynexport.progress import OnProgress

PRECISIONS: Mapping[str, str] = MappingProxyType(
    {
        "fp32": "as it was trained",
        "fp16": "weights and activations in half precision",
        "bf16": "the same with float32's range and 8 bits",
        "int8": "products in int8, calibrated on images; the rest in float32",
        "int8-fp16": "products in int8, calibrated on images; the rest in fp16, for GPUs",
        "int8-dynamic": "products in int8, ranges taken from each batch; for CPUs",
    }
)
"""What each precision is, by its name on the command line."""

CALIBRATED = ("int8", "int8-fp16")
HALF: Mapping[str, Kind] = MappingProxyType({"fp16": "fp16", "bf16": "bf16", "int8-fp16": "fp16"})
"""What the precisions call half."""

LEAST_IMAGES = 16
"""A range read off fewer images says little."""


@dataclass(frozen=True)
class Precision:
    """A precision, and what it takes to get there.

    name                one of `PRECISIONS`
    io                  "fp32", or "half" for inputs and outputs in fp16; not in bf16, for which
                        numpy has no type to feed a runtime with
    calibration_data    folder of images, or .npz, that ranges are read off; the int8 of static
                        ranges needs it, fp16 looks on it for values it cannot hold
    calibration_images  how many of them are used, at most
    seed                draws them at random; None spreads them evenly
    methods             int8 ranges are chosen among these, see `dynexport.calibration.METHODS`
    fallback_to         "auto" raises single layers back from int8 until ``target_agreement``
    target_agreement    share of images held out whose class must stay, in (0, 1]
    """

    name: str = "fp32"
    io: str = "fp32"
    calibration_data: str | Path | None = None
    calibration_images: int = 512
    seed: int | None = None
    methods: tuple[str, ...] = METHODS
    fallback_to: str | None = None
    target_agreement: float = 0.99

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise InputError(unknown_choice("precision", self.name, PRECISIONS))
        if self.io not in ("fp32", "half"):
            raise InputError(unknown_choice("I/O precision", self.io, ("fp32", "half")))
        if self.io == "half" and HALF.get(self.name) != "fp16":
            raise InputError(
                f"{self.name} keeps inputs and outputs in float32: half ones are fp16, which goes "
                "with fp16 and int8-fp16"
            )
        if self.name in CALIBRATED and self.calibration_data is None:
            raise InputError(
                f"{self.name} is calibrated on images: give some with --calibration-data, a folder "
                "or an .npz, or choose int8-dynamic, which needs none"
            )
        if self.fallback_to not in (None, "auto"):
            raise InputError(unknown_choice("fallback", self.fallback_to, ("auto",)))
        if self.fallback_to and self.name not in CALIBRATED:
            raise InputError(
                f"{self.name} has no layers to raise back: --fallback-to goes with "
                f"{' or '.join(CALIBRATED)}"
            )
        if not 0.0 < self.target_agreement <= 1.0:
            raise InputError(
                f"agreement {self.target_agreement:g} is out of range: it must lie in (0, 1]"
            )
        for method in self.methods:
            require_method(method)
        if not self.methods:
            raise InputError(f"no calibration method was given: choose from {', '.join(METHODS)}")

    def open_images(self, preprocessing: Preprocessing) -> ImageSet | None:
        """The calibration images; ImageError if there are too few or they cannot be read."""
        if self.calibration_data is None:
            return None
        return open_images(
            self.calibration_data,
            preprocessing,
            count=self.calibration_images,
            seed=self.seed,
            at_least=LEAST_IMAGES,
        )


@dataclass(frozen=True)
class PrecisionReport:
    """What was done to the graph.

    name, io  as asked for
    images    what it was calibrated on, or looked over for values too large; "" where nothing was
    single    nodes that stay in float32 as half precision cannot hold what they compute with: the
              largest magnitude of it, by name. What ranks tokens stays so by design
    int8      what calibration chose; None where nothing is calibrated
    """

    name: str
    io: str = "fp32"
    images: str = ""
    single: dict[str, float] = field(default_factory=dict)
    int8: Int8Report | None = None


def convert_precision(
    model: ir.Model,
    metadata: Metadata,
    precision: Precision,
    images: ImageSet | None,
    pictures: NDArray[np.float32],
    on_progress: OnProgress = lambda what, done, of: None,
) -> tuple[ir.Model, PrecisionReport]:
    """A typed copy of a float32 graph (for fp32 the graph itself), and what was done.

    images    `Precision.open_images`'s; where there are none ``pictures``, float32 (P, 3, H, W),
              are looked over for values that half precision cannot hold
    """
    if precision.name == "fp32":
        return model, PrecisionReport("fp32")
    if precision.name == "int8-dynamic":
        layers = [layer for layer in find_linear_layers(model) if not layer.ranks]
        typed = quantise_dynamically(model, layers)
        store_in_half(typed)
        return typed, PrecisionReport(precision.name)
    named = f"{len(pictures)} reference images"
    if images is not None:
        named = f"{images.count} images of {images.source.name}"
    kind, half_io, single = HALF.get(precision.name), precision.io == "half", dict[str, float]()
    if kind is not None:
        on_progress(f"look for values that {kind} cannot hold on {named}", 0, 1)
        batches = _batches(metadata, images, pictures)
        single = find_overflow(model, batches, kind, half_io=half_io)
        on_progress(f"look for values that {kind} cannot hold on {named}", 1, 1)
    typed, report = model, None
    if precision.name in CALIBRATED:
        assert images is not None
        typed, report = calibrate(
            model,
            metadata,
            images,
            methods=precision.methods,
            target_agreement=precision.target_agreement if precision.fallback_to else None,
            on_progress=on_progress,
        )
    if kind is None:
        store_in_half(typed)
    else:
        typed = to_half(typed, kind, single=single, half_io=half_io)
    by_design = {node.name for node in ranking_nodes(model, classes=False)}
    told = {name: largest for name, largest in single.items() if name not in by_design}
    return typed, PrecisionReport(precision.name, precision.io, named, told, report)


def _batches(
    metadata: Metadata, images: ImageSet | None, pictures: NDArray[np.float32]
) -> Iterable[NDArray[np.float32]]:
    size = batch_size(metadata)
    if images is not None:
        return images.batches(size)
    return (pictures[start : start + size] for start in range(0, len(pictures), size))
