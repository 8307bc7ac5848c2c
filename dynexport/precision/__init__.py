"""From a float32 graph to a typed one: precision is in the ONNX file, one file a precision.

A file of this folder declares in ``PRECISIONS`` what each of its precisions is, a `PrecisionKind`;
nothing else lists them, and it imports nothing slow until a graph is converted. One that stands in
``dynexport/precision/`` elsewhere on the search path counts as one of this folder
(`dynexport.files.folders_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dynexport.compare.tolerances import (
    AS_USUAL,
    Limits,
    OwnRounding,
    Tolerances,
    apply_limits,
    hold_to_rounding,
)
from dynexport.errors import InputError, ModelFileError, unknown_choice
from dynexport.files import declared_in, folders_of
from dynexport.precision.kind import Job, PrecisionKind, PrecisionReport
from dynexport.progress import OnProgress

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from dynexport.formats.metadata import Metadata
    from dynexport.images import ImageSet, Preprocessing

__all__ = [
    "Job",
    "Precision",
    "PrecisionKind",
    "PrecisionReport",
    "choose_tolerances",
    "convert_precision",
    "find_precision",
    "held_tolerances",
    "precision_of",
    "precisions",
]

__path__ = folders_of(__name__, __path__)

LEAST_IMAGES = 16
"""A range read off fewer images says little."""


@cache
def precisions() -> Mapping[str, PrecisionKind]:
    """Every precision that is declared, by its name, in the order of their files."""
    declared: list[PrecisionKind] = declared_in(__name__, __path__, "PRECISIONS")
    return MappingProxyType({kind.name: kind for kind in declared})


def find_precision(name: str) -> PrecisionKind:
    """The precision of a name; InputError if there is none, with the nearest name."""
    if name not in precisions():
        raise InputError(unknown_choice("precision", name, precisions()))
    return precisions()[name]


def precision_of(model: ir.Model) -> str:
    """The precision a graph is of, read off the graph: the last declared that recognises it."""
    kinds = reversed([*precisions().values()])
    return next(kind.name for kind in kinds if kind.recognise and kind.recognise(model))


def choose_tolerances(name: str, limits: Limits = AS_USUAL) -> Tolerances:
    """The tolerances of a precision, with what was asked for in their place.

    fp32's for a name that is of none; a wider tie margin widens that of the ranking.
    """
    kind = precisions().get(name) or precisions()["fp32"]
    return apply_limits(kind.tolerances, limits)


MULTIPLE = 2.0
"""So many times its own rounding a file may lie from PyTorch. On the images that was measured on
it is the rounding itself, but for another CPU's."""


def held_tolerances(name: str, metadata: Metadata, limits: Limits = AS_USUAL) -> Tolerances:
    """The tolerances of a precision for one file of it, with what was asked for in their place.

    They are held to what the file was measured at when it was made, where its metadata say.
    ModelFileError if what they say is damaged.
    """
    entry, made = metadata.precision.get("rounding"), precisions().get(metadata.precision["name"])
    usual = choose_tolerances(name)
    if entry is None or made is None or made.repeats is None or made.tolerances != usual:
        return apply_limits(usual, limits)
    try:
        rounding = OwnRounding(**entry)
    except (InputError, TypeError):
        raise ModelFileError(
            "the model's metadata say nothing sound of its rounding: convert the checkpoint again"
        ) from None
    return apply_limits(hold_to_rounding(usual, rounding, MULTIPLE, made.repeats), limits)


def _all_methods() -> tuple[str, ...]:
    from dynexport.calibration import METHODS

    return METHODS


@dataclass(frozen=True)
class Precision:
    """A precision, and what it takes to get there.

    name                one of `precisions`
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
    methods: tuple[str, ...] = field(default_factory=_all_methods)
    fallback_to: str | None = None
    target_agreement: float = 0.99

    def __post_init__(self) -> None:
        self._require_fitting_io()
        self._require_images()
        self._require_methods()
        if not 0.0 < self.target_agreement <= 1.0:
            raise InputError(
                f"agreement {self.target_agreement:g} is out of range: it must lie in (0, 1]"
            )

    @property
    def kind(self) -> PrecisionKind:
        """What its file declares of it; InputError if there is none of its name."""
        return find_precision(self.name)

    def open_images(self, preprocessing: Preprocessing) -> ImageSet | None:
        """The calibration images; ImageError if there are too few or they cannot be read."""
        if self.calibration_data is None:
            return None
        from dynexport.images import open_images

        return open_images(
            self.calibration_data,
            preprocessing,
            count=self.calibration_images,
            seed=self.seed,
            at_least=LEAST_IMAGES,
        )

    def require_engine(self, edition: str) -> None:
        """InputError unless that edition of TensorRT has operators for it."""
        if not self.kind.engines:
            raise InputError(
                f"{edition} has no operators for {self.name}: choose {self.kind.instead}"
            )

    def _require_fitting_io(self) -> None:
        half = self.kind.half  # an unknown precision is told before all else
        if self.io not in ("fp32", "half"):
            raise InputError(unknown_choice("I/O precision", self.io, ("fp32", "half")))
        if self.io == "half" and half != "fp16":
            fitting = [kind.name for kind in precisions().values() if kind.half == "fp16"]
            raise InputError(
                f"{self.name} keeps inputs and outputs in float32: half ones are fp16, which goes "
                f"with {' and '.join(fitting)}"
            )

    def _require_images(self) -> None:
        if self.kind.images == "needed" and self.calibration_data is None:
            raise InputError(
                f"{self.name} is calibrated on images: give some with `calibration_data`, a folder "
                "or an .npz" + (f", or choose {self.kind.instead}" if self.kind.instead else "")
            )
        if self.fallback_to not in (None, "auto"):
            raise InputError(unknown_choice("fallback", self.fallback_to or "", ("auto",)))
        if self.fallback_to and self.kind.images != "needed":
            fitting = [kind.name for kind in precisions().values() if kind.images == "needed"]
            raise InputError(
                f"{self.name} has no layers to raise back: `fallback_to` goes with "
                f"{' or '.join(fitting)}"
            )

    def _require_methods(self) -> None:
        from dynexport.calibration import METHODS, require_method

        for method in self.methods:
            require_method(method)
        if not self.methods:
            raise InputError(f"no calibration method was given: choose from {', '.join(METHODS)}")


def convert_precision(
    model: ir.Model,
    metadata: Metadata,
    precision: Precision,
    images: ImageSet | None,
    pictures: NDArray[np.float32],
    on_progress: OnProgress = lambda what, done, of: None,
) -> tuple[ir.Model, PrecisionReport]:
    """A typed copy of a float32 graph (for fp32 the graph itself), and what was done.

    images    `Precision.open_images`'s; where there are none ``pictures``, float32 (P, C, H, W),
              are looked over for values that half precision cannot hold
    """
    return precision.kind.convert(model, Job(precision, metadata, images, pictures, on_progress))
