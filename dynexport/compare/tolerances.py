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
class OwnRounding:
    """How far a typed file lies from the float32 graph, as measured when it was made.

    Of the worst image and stage, both under one choice of tokens, as `Tolerances` measures int8.

    images   measured on
    outputs  length of the difference relative to that of the answer
    ranking  how far apart two tokens score at most that it ranks the other way round, relative to
             the largest score (but at least to one)
    """

    images: int
    outputs: float
    ranking: float

    def __post_init__(self) -> None:
        for measured in (self.outputs, self.ranking):
            if not (math.isfinite(measured) and measured >= 0):
                raise InputError(f"a rounding of {measured:g} is not valid: it has to be a number")


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
    own            the same for the answers that the file itself gave when it was made; None where
                   it is not held to them
    """

    measure: str
    outputs: float
    tie_margin: float
    ranking: float
    min_agreement: float | None = None
    max_drop: float | None = None
    own: Tolerances | None = None

    def __post_init__(self) -> None:
        for limit in (self.outputs, self.tie_margin, self.ranking):
            if not (math.isfinite(limit) and limit >= 0):
                raise InputError(
                    f"a tolerance of {limit:g} is not valid: what it allows has to be a number"
                )


WIDEST = 1.5
"""Of the usual tolerance, where more is a file's own rounding."""

LEAST_OUTPUTS, LEAST_RANKING = 5e-3, 2e-2
"""fp16's tolerances: however little int8 rounds, runtimes compute the rest of a file in half."""


def hold_to_rounding(
    usual: Tolerances, rounding: OwnRounding, multiple: float, share: float
) -> Tolerances:
    """Tolerances held to a file's own rounding.

    They are no wider than the usual ones, but for PyTorch's outputs: a model of few channels may
    lie further off by rounding alone, which is then known of it.

    multiple  so many times its own rounding its outputs may lie from PyTorch's
    share     so much of it lie runtimes apart, that is from the answers it gave when it was made;
              in these the ranking is held as well, whose scores PyTorch may give on another scale

    Two tokens that change places at the cut are two that are ranked the other way round, so that
    tie margin is the ranking's.
    """
    near, far = (max(LEAST_OUTPUTS, times * rounding.outputs) for times in (share, multiple))
    ranking = max(LEAST_RANKING, share * rounding.ranking)
    own = replace(
        usual,
        outputs=min(usual.outputs, near),
        tie_margin=min(usual.tie_margin, ranking),
        ranking=min(usual.ranking, ranking),
    )
    return replace(usual, outputs=min(WIDEST * usual.outputs, far), own=own)


def apply_limits(usual: Tolerances, limits: Limits) -> Tolerances:
    """Tolerances with what was asked for in their place.

    A wider tie margin widens that of the ranking. What is accepted beside PyTorch is accepted
    beside the file's own answers as well.
    """
    asked = replace(
        usual,
        outputs=usual.outputs if limits.tolerance is None else limits.tolerance,
        tie_margin=usual.tie_margin if limits.tie_margin is None else limits.tie_margin,
        ranking=max(usual.ranking, limits.tie_margin or 0.0),
        min_agreement=limits.min_agreement,
        max_drop=limits.max_drop,
    )
    if usual.own is None:
        return asked
    own = replace(
        usual.own,
        outputs=max(usual.own.outputs, limits.tolerance or 0.0),
        tie_margin=max(usual.own.tie_margin, limits.tie_margin or 0.0),
        ranking=max(usual.own.ranking, limits.tie_margin or 0.0),
    )
    return replace(asked, own=own)
