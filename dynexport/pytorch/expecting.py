"""Whether a checkpoint, as it is read, answers as its owner's own model did; and if not, why.

A file is verified against our reading of the checkpoint, so a setting that was guessed wrong would
pass. The owner's recorded answers do not agree with it. Then what no tensor tells is read
otherwise, one thing at a time and then two, until the answers fit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from dynexport.compare.expected import EXACT, Fit, judge_expected, squash
from dynexport.errors import DynexportError, VerificationError
from dynexport.formats.expectation import Expectation
from dynexport.images import Preprocessing
from dynexport.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from dynexport.models import Family, SparseModel, usual_alternatives
from dynexport.progress import OnStep, silent
from dynexport.pytorch.checkpoint import Checkpoint, load_checkpoint
from dynexport.pytorch.identify import build_model
from dynexport.pytorch.rewrite import keep_counts, oracle
from dynexport.schedule import KeepSchedule, schedule_from_base
from dynexport.tasks import LOGITS

FIRST = 2
"""Images that every reading is tried on; one that fits them is tried on all."""

RATIOS = (0.7, 0.5, 0.9, 0.8, 0.6)
"""Keep ratios that are tried, the most published first."""

SCALES = (
    ("`mean` 0.5 and `std` 0.5", (0.5,), (0.5,)),
    ("`mean` 0 and `std` 1", (0.0,), (1.0,)),
    ("`mean` 0 and `std` 0.00392157, which leaves 0 to 255", (0.0,), (1 / 255,)),
    (
        f"ImageNet's `mean` {','.join(map(str, IMAGENET_MEAN))} and "
        f"`std` {','.join(map(str, IMAGENET_STD))}",
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
)
"""Ways to scale a picture: what says so, mean and deviation of each channel, or of all."""

GIVE = "give that"
"""What is advised of a setting that fits."""

LIKELIEST, MOST_PAIRS = 3, 60
"""Of each kind of change so many are tried in pairs, and so many pairs at most."""


@dataclass(frozen=True)
class Reading:
    """A checkpoint, and all that decides what a model made of it answers.

    keep   None drops nothing
    swaps  whether the channels of pictures are in the other order
    """

    checkpoint: Checkpoint
    family: Family
    config: Any
    keep: KeepSchedule | None
    steps: Preprocessing
    swaps: bool = False


@dataclass(frozen=True)
class Change:
    """Another reading, and what it is called; of one ``kind`` only one is made at a time."""

    kind: str
    said: str
    apply: Callable[[Reading], Reading]
    advice: str = GIVE


def require_expected(
    reading: Reading,
    expectation: Expectation,
    form: SparseModel | None = None,
    on_step: OnStep = silent,
) -> Fit:
    """How a reading fits what is expected; VerificationError names the likeliest cause if not.

    form: a model of it that is at hand, in whatever form; else one is made.
    """
    fit = _measure(reading, expectation, form)
    if fit.passed and expectation.squashed:
        raise VerificationError(expectation.told_of_squashing)
    if fit.passed and fit.error <= EXACT:
        return fit
    on_step("look for a reading of the checkpoint that fits better")
    tried = _try_others(reading, expectation)
    clearly_better = tried and tried[0].fit.proved and 10 * tried[0].fit.error < fit.error
    if fit.passed and not clearly_better:
        return fit
    raise VerificationError(_explain(reading, expectation, fit, tried))


class _Tried(NamedTuple):
    """A reading that was tried, and how it fits."""

    changes: tuple[Change, ...]
    fit: Fit

    @property
    def order(self) -> tuple[bool, tuple[float, float]]:
        """The better it fits, the earlier."""
        return not self.fit.proved, self.fit.rank


def _measure(
    reading: Reading,
    expectation: Expectation,
    form: SparseModel | None = None,
    first: int | None = None,
) -> Fit:
    """How a reading answers the images, or the first few; DynexportError if it makes no model."""
    some = slice(first)
    if form is None:
        model = build_model(reading.checkpoint, reading.family, reading.config)
        form = oracle(model, reading.keep)
    counts = () if reading.keep is None else keep_counts(form, reading.keep)
    images = expectation.images[some]
    if reading.swaps:
        images = images[..., ::-1]
    with torch.inference_mode():
        output = form(torch.from_numpy(reading.steps.to_input(images)))
    found = {name: value.numpy() for name, value in output.outputs.items()}
    if expectation.squashed:
        found[LOGITS] = squash(found[LOGITS], expectation.squashed)
    expected = {name: values[some] for name, values in expectation.outputs.items()}
    return judge_expected(expected, found, [one.numpy() for one in output.tokens.scores], counts)


def _try_others(reading: Reading, expectation: Expectation) -> list[_Tried]:
    """Readings with one change, or if none of these fits with two; the best first."""
    singles = [(one,) for one in _changes(reading, expectation)]
    tried = _try(reading, expectation, singles)
    if not (tried and tried[0].fit.proved):
        tried += _try(reading, expectation, _pairs(tried))
    return sorted(tried, key=lambda one: one.order)


def _pairs(singles: Sequence[_Tried]) -> list[tuple[Change, Change]]:
    """Two changes of different kinds, of those that came nearest each by itself."""
    counted: dict[str, int] = {}
    likely = []
    for (change,), fit in sorted(singles, key=lambda one: -one.fit.cosine):
        counted[change.kind] = counted.get(change.kind, 0) + 1
        if counted[change.kind] <= LIKELIEST:
            likely.append((change, fit.cosine))
    both = [
        (one, other, -near - nearer)
        for (one, near), (other, nearer) in itertools.combinations(likely, 2)
        if one.kind != other.kind
    ]
    return [(one, other) for one, other, _ in sorted(both, key=lambda pair: pair[2])][:MOST_PAIRS]


def _try(
    reading: Reading, expectation: Expectation, ways: Sequence[tuple[Change, ...]]
) -> list[_Tried]:
    """How readings changed so fit, the best first; one that fits to rounding ends the search."""
    tried = []
    for changes in ways:
        try:
            other = functools.reduce(lambda one, change: change.apply(one), changes, reading)
            fit = _measure(other, expectation, first=FIRST)
            if fit.passed:
                fit = _measure(other, expectation)
        except DynexportError:  # no model can be made so
            continue
        tried.append(_Tried(changes, fit))
        if fit.proved and fit.error <= EXACT:
            break
    return sorted(tried, key=lambda one: one.order)


def _changes(reading: Reading, expectation: Expectation) -> Iterator[Change]:
    """Everything that may be read otherwise, the likelier and the quicker first."""
    if expectation.pictures:
        yield from _other_pictures(reading)
    yield from _other_weights(reading)
    yield from _other_ratios(reading)
    for one in usual_alternatives(reading.family, reading.config):
        kind = ",".join(one.changes)
        yield Change(kind, one.said, _configured(dict(one.changes)))


def _configured(fields: dict[str, Any]) -> Callable[[Reading], Reading]:
    return lambda reading: replace(reading, config=replace(reading.config, **fields))


def _other_pictures(reading: Reading) -> Iterator[Change]:
    channels = reading.config.in_chans
    for said, mean, std in SCALES:
        mean, std = (mean * channels)[:channels], (std * channels)[:channels]
        if (mean, std) != (reading.steps.mean, reading.steps.std):
            yield Change("scale", said, _scaled(mean, std))
    if channels == 3:
        yield Change(
            "order",
            "the channels of pictures in the order blue, green, red",
            lambda one: replace(one, swaps=True),
            "convert for such input, with `images` recorded as float32, as they are fed to it",
        )


def _scaled(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Reading], Reading]:
    return lambda reading: replace(reading, steps=replace(reading.steps, mean=mean, std=std))


def _other_weights(reading: Reading) -> Iterator[Change]:
    for place in reading.checkpoint.available:
        if place != reading.checkpoint.weights:
            load = functools.partial(load_checkpoint, reading.checkpoint.path, place)
            yield Change("weights", f"`weights` {place}", _weighted(functools.cache(load)))


def _weighted(load: Callable[[], Checkpoint]) -> Callable[[Reading], Reading]:
    return lambda reading: replace(reading, checkpoint=load())


def _other_ratios(reading: Reading) -> Iterator[Change]:
    stages = len(reading.config.prune_at)
    for ratio in RATIOS:
        try:
            keep = schedule_from_base(reading.family.schedule, ratio, stages)
        except DynexportError:  # of a family whose schedule ends below it
            continue
        if keep != reading.keep:
            yield Change("ratio", f"`ratio` {ratio:g}", _keeping(keep))
    if reading.keep is not None:
        yield Change("ratio", "`dense`", _keeping(None))


def _keeping(keep: KeepSchedule | None) -> Callable[[Reading], Reading]:
    return lambda reading: replace(reading, keep=keep)


def _explain(reading: Reading, expectation: Expectation, fit: Fit, tried: Sequence[_Tried]) -> str:
    """One sentence: what differs, and which reading fits, or comes nearest."""
    told = fit.failures[0] if fit.failures else f"they differ by {fit.error:.1g}"
    sentence = (
        f"{reading.checkpoint.path}, as it is read, does not answer as {expectation.path} expects "
        f"({told}): "
    )
    nearest = ""
    if tried:
        changes, best = tried[0]
        changed = " and ".join(one.said for one in changes)
        if best.proved:
            advice = next((one.advice for one in changes if one.advice != GIVE), GIVE)
            return f"{sentence}with {changed} it fits (error {best.error:.1g}), so {advice}"
        if best.error < fit.error / 2:
            nearest = f"; the nearest, {changed}, still errs by {best.error:.1g}"
    return (
        f"{sentence}none of {len(tried)} other readings fits{nearest}; record it in eval mode, in "
        "float32 on a CPU, of the weights in that file"
    )
