"""How much a candidate may differ: by precision, and stated in every report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dynexport.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What a user asks for in place of the usual; None leaves it as the precision has it.

    tolerance      accepted error of outputs, see `Tolerances.outputs`
    tie_margin     how close to the cut scores may change places, see `Tolerances.tie_margin`
    min_agreement  share of images that must be given PyTorch's class
    max_drop       points of accuracy that may be lost against PyTorch
    """

    tolerance: float | None = None
    tie_margin: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        error, margin = self.tolerance, self.tie_margin
        if error is not None and not (math.isfinite(error) and error > 0):
            raise InputError(f"tolerance {error:g} is not valid: give a number above 0")
        if margin is not None and not (math.isfinite(margin) and margin >= 0):
            raise InputError(f"tie margin {margin:g} is not valid: give 0 or more")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise InputError(
                f"an agreement of {self.min_agreement:g} is not valid: give a share of the images, "
                "0 to 1"
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InputError(
                f"a drop of {self.max_drop:g} points is not valid: give 0 to 100, as in 0.5"
            )


AS_USUAL = Limits()
"""Nothing asked for."""


@dataclass(frozen=True)
class Tolerances:
    """What counts as agreement.

    measure        how an output is measured: "max", its largest difference relative to its largest
                   value (but at least to one); "l2", the length of an image's difference relative
                   to that of its answer
    outputs        accepted error by that measure
    tie_margin     how close to the cut two scores are that may change places by rounding,
                   relative to the largest (but at least to one)
    ranking        the same for any two tokens of a stage, not at the cut alone
    min_agreement  share of images that must be given PyTorch's class; None: any
    max_drop       points of accuracy that may be lost against PyTorch; None: any
    """

    measure: str
    outputs: float
    tie_margin: float
    ranking: float
    min_agreement: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for limit in (self.outputs, self.tie_margin, self.ranking):
            if not (math.isfinite(limit) and limit >= 0):
                raise InputError(
                    f"a tolerance of {limit:g} is not valid: what it allows has to be a number"
                )


def apply_limits(usual: Tolerances, limits: Limits) -> Tolerances:
    """Tolerances with what was asked for in their place.

    A wider tie margin widens that of the ranking.
    """
    return replace(
        usual,
        outputs=usual.outputs if limits.tolerance is None else limits.tolerance,
        tie_margin=usual.tie_margin if limits.tie_margin is None else limits.tie_margin,
        ranking=max(usual.ranking, limits.tie_margin or 0.0),
        min_agreement=limits.min_agreement,
        max_drop=limits.max_drop,
    )
