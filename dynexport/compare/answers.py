"""Answers of a model beside those of another, both under one choice of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dynexport.compare.numbers import PYTORCHS, Errors, error_failures, measure_errors
from dynexport.compare.original import Kept
from dynexport.compare.selection import (
    StageChoice,
    choice_failures,
    judge_stage,
    score_failures,
)
from dynexport.compare.tolerances import Tolerances


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model gave for R images.

    outputs  by name, (R, ...)
    kept     per stage the positions kept, (R, K); empty where nothing was chosen
    scores   per stage what they were ranked by, (R, positions), -inf where a token was not ranked
    """

    outputs: Mapping[str, NDArray[Any]]
    kept: Kept = ()
    scores: tuple[NDArray[Any], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """How far two sets of answers lie apart; ``failures`` says what is too far, a sentence each.

    errors  by the output's name
    stages  the choice at each pruning stage
    """

    errors: dict[str, Errors]
    stages: tuple[StageChoice, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def compare(
    theirs: Answers, ours: Answers, tolerances: Tolerances, whose: str = PYTORCHS
) -> Comparison:
    """Judge ``ours`` beside ``theirs``, both made under one choice of tokens.

    Then outputs differ by numeric error alone, and each stage's choice is judged on tokens that
    both had before it. Nothing compared has not passed, and neither has what is no finite number,
    on either side. whose: what sentences call theirs.
    """
    failures: list[str] = []
    stages: list[StageChoice] = []
    judged = zip(theirs.scores, ours.scores, ours.kept, strict=True)
    for number, (expected, found, kept) in enumerate(judged, start=1):
        stages.append(judge_stage(expected, found, kept, tolerances.tie_margin))
        failures += score_failures(number, expected, found, whose) or choice_failures(
            number, stages[-1], tolerances
        )
    errors = {}
    for name, expected in theirs.outputs.items():
        found = ours.outputs[name]
        errors[name] = measure_errors(expected, found)
        failures += error_failures(name, expected, found, errors[name], tolerances, whose)
    if not errors:
        failures.append("nothing was compared: there is no output")
    return Comparison(errors, tuple(stages), tuple(failures))
