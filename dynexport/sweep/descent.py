"""The way down from the model that keeps all.

At each step one stage keeps fewer tokens, that which harms least for each multiply-accumulate
saved.

Harm is the divergence of the class probabilities from the dense model's, on a few images, in
PyTorch. A stage never keeps more than the one before it: what `--ratios` takes, in every family.
Where on the way a target is met, measurements of converted files tell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dynexport.compare.numbers import best_classes, divergences, share_of
from dynexport.conversion import Recipe, TrainedModel
from dynexport.conversion.steps import describe_export
from dynexport.errors import InputError, VerificationError
from dynexport.images import ImageSet
from dynexport.schedule import KeepSchedule
from dynexport.sweep.measure import answer_densely, answer_in_pytorch
from dynexport.sweep.ratios import ratios_of
from dynexport.tasks import LOGITS

Counts = tuple[int, ...]
"""Tokens kept after each stage, never rising."""

STEPS = 16
"""A stage is lowered by this part of the grid, unless told otherwise."""

TRIALS = 6
"""Files timed at most, once one of them is fast enough."""

CAUTION = 0.01
"""Where a file was expected to be fast enough and was not, the next is to be faster by so much."""

ROUNDING = 1e-9
"""A drop that is larger by less is not: it is a difference of quotients."""


@dataclass(frozen=True)
class Point:
    """A schedule on the way down.

    The ratios that give its counts, multiply-accumulates for one image, divergence of its class
    probabilities from the dense model's (nats, the mean), and the share of images given the dense
    model's class.
    """

    ratios: tuple[float, ...]
    keep_counts: Counts
    macs: int
    divergence: float
    agreement: float


class Way:
    """The points of a way, found as they are asked for."""

    def __init__(self, points: Iterator[Point]) -> None:
        self.points: list[Point] = []
        self._more = points

    def reaches(self, place: int) -> bool:
        """Whether there is a point at this place, counted from the top."""
        while len(self.points) <= place:
            point = next(self._more, None)
            if point is None:
                return False
            self.points.append(point)
        return True


def walk_down(
    judge: Callable[[Counts], Point], tokens: int, stages: int, step: int | None = None
) -> Iterator[Point]:
    """From the schedule that keeps all of ``tokens`` at every stage to that which keeps one.

    judge  what a schedule costs and harms; step: tokens a stage is lowered by
    """
    step = step or max(1, tokens // STEPS)
    here = judge((tokens,) * stages)
    yield here
    while True:
        lower = [judge(counts) for counts in lower_stages(here.keep_counts, step)]
        if not lower:
            return
        here = min(lower, key=functools.partial(_price, here))
        yield here


def lower_stages(counts: Counts, step: int) -> list[Counts]:
    """The schedules in which one stage keeps ``step`` tokens fewer, but at least one.

    Those after it keep no more than that.
    """
    lowered = []
    for stage, count in enumerate(counts):
        most = max(1, count - step)
        if most < count:
            lowered.append((*counts[:stage], *(min(most, later) for later in counts[stage:])))
    return lowered


def find_fast(way: Way, measure: Callable[[Point], float | None], target: float) -> Point:
    """The first point whose file takes at most ``target`` milliseconds, as far as `TRIALS` tell.

    ``measure`` tells what a file takes, None where it cannot be used. VerificationError if even the
    last takes longer.
    """
    seen: dict[int, float] = {}
    slow, fast, place, aim = -1, -1, 0, target
    while True:
        found = measure(way.points[place]) if way.reaches(place) else None
        if found is not None:
            seen[place] = found
        if found is not None and found <= target:
            fast, aim = place, target
        else:
            slow, aim = place, aim * (1.0 - CAUTION)
        place = _next_fast(way, seen, slow, fast, aim)
        if fast >= 0 and (place == fast or len(seen) >= TRIALS):
            return way.points[fast]
        if place == slow:
            told = "no file passed verification"
            if seen:
                place = min(seen, key=seen.__getitem__)
                counts = ", ".join(map(str, way.points[place].keep_counts))
                told = f"the fastest tried keeps {counts} tokens and takes {seen[place]:.2f} ms"
            raise VerificationError(
                f"no schedule takes {target:g} ms a batch or less: {told}; allow more, choose "
                "another `precision` or a smaller `batch`, or measure while nothing else runs"
            )


def _next_fast(way: Way, seen: dict[int, float], slow: int, fast: int, aim: float) -> int:
    """The first place between a slow and a fast one (-1: none is known) that is expected to take
    ``aim`` milliseconds at most; else the fast one, or the last of all."""
    place = slow + 1
    while place != fast and way.reaches(place):
        if predict_latency(way, seen, place) <= aim:
            return place
        place += 1
    return fast if fast >= 0 else place - 1


def predict_latency(way: Way, seen: dict[int, float], place: int) -> float:
    """Milliseconds a point is expected to take, by its multiply-accumulates.

    From the nearest one measured along the line through the cheapest and the dearest, or in
    proportion where only one was measured, or it does not rise.
    """
    if not seen:
        return 0.0
    macs = way.points[place].macs
    known = sorted((way.points[there].macs, found) for there, found in seen.items())
    near, near_ms = min(known, key=lambda pair: abs(pair[0] - macs))
    (least, least_ms), (most, most_ms) = known[0], known[-1]
    rises = most > least and most_ms > least_ms
    slope = (most_ms - least_ms) / (most - least) if rises else near_ms / near
    return near_ms + slope * (macs - near)


def find_cheap(way: Way, measure: Callable[[Point], float | None], target: float) -> Point:
    """The last point whose file loses at most ``target`` points.

    It is looked for in steps that double and then halve.

    ``measure`` tells what a file loses, None where it cannot be used. VerificationError if even the
    first loses more.
    """
    place = 0
    while way.reaches(place + 1) and 100.0 * (1.0 - way.points[place + 1].agreement) <= target:
        place += 1
    seen: dict[int, float] = {}
    kept, lost, stride = -1, -1, 1
    while True:
        found = measure(way.points[place]) if way.reaches(place) else None
        if found is not None:
            seen[place] = found
        if found is not None and found <= target + ROUNDING:
            kept = place
        else:
            lost = place
        if lost >= 0:
            place = (kept + lost) // 2
        else:
            place, stride = kept + stride, 2 * stride
            while not way.reaches(place):
                place -= 1
        if place == kept:
            break
    if kept >= 0:
        return way.points[kept]
    told = "its file fails verification"
    if 0 in seen:
        told = f"loses {seen[0]:.2f}"
    raise VerificationError(
        f"no schedule loses {target:g} points or less: that which keeps all "
        f"{way.points[0].keep_counts[0]} tokens {told}; allow more, or choose another `precision`"
    )


def _price(here: Point, there: Point) -> float:
    """Divergence added for each multiply-accumulate saved."""
    return (there.divergence - here.divergence) / max(1, here.macs - there.macs)


def judge_schedules(trained: TrainedModel, images: ImageSet) -> Callable[[Counts], Point]:
    """Judges schedules on these images, each once.

    InputError where the model's ratios are no shares of its grid, so that counts cannot be chosen
    freely.
    """
    from dynexport.pytorch.rewrite import keep_counts, rewrite

    tokens, stages = trained.config.num_tokens, len(trained.config.prune_at)
    if (
        trained.model.selection.appended
        or keep_counts(trained.model, KeepSchedule(ratios_of((1,) * stages, tokens)))
        != (1,) * stages
    ):
        raise InputError(
            f"the search chooses how many tokens of the grid each stage keeps, and "
            f"{trained.family.name} counts ratios otherwise: give `ratios` in its place"
        )
    dense = answer_densely(trained, images)
    macs = fit_macs(lambda counts: count_exported(trained, counts), tokens, stages)

    @functools.cache
    def judge(counts: Counts) -> Point:
        ratios = ratios_of(counts, tokens)
        answers = answer_in_pytorch(rewrite(trained.model, KeepSchedule(ratios)), images)
        return Point(
            ratios=ratios,
            keep_counts=counts,
            macs=macs(counts),
            divergence=float(divergences(dense, answers).mean()),
            agreement=share_of(best_classes(answers), best_classes(dense)),
        )

    return judge


def count_exported(trained: TrainedModel, counts: Counts) -> int:
    """Multiply-accumulates for one image of the graph that a schedule is exported to.

    Less than PyTorch computes, as rows that nobody reads are left out.
    """
    from dynexport.pytorch.export import export_onnx
    from dynexport.pytorch.rewrite import rewrite

    recipe = Recipe(trained.checkpoint.path, batch=1, target="tensorrt")
    keep = KeepSchedule(ratios_of(counts, trained.config.num_tokens))
    outputs = {LOGITS: (trained.config.num_classes,)}
    spec = describe_export(recipe, trained, keep, outputs)
    return export_onnx(rewrite(trained.model, keep), spec).metadata.macs_sparse


def fit_macs(count: Callable[[Counts], int], tokens: int, stages: int) -> Callable[[Counts], int]:
    """What ``count`` gives, from a few schedules.

    The tokens a stage keeps are computed each by itself, in proportion to their number, or in
    pairs, to its square.
    """
    samples = list(
        dict.fromkeys(
            (*(tokens,) * stage, kept, *(1,) * (stages - stage - 1))
            for stage in range(stages)
            for kept in (1, (tokens + 1) // 2, tokens)
        )
    )

    def terms(counts: Counts) -> list[float]:
        shares = [count / tokens for count in counts]
        return [1.0, *shares, *(share * share for share in shares)]

    table = np.array([terms(counts) for counts in samples])
    weights = np.linalg.lstsq(table, np.array([count(c) for c in samples], dtype=np.float64))[0]
    return lambda counts: round(float(np.dot(terms(counts), weights)))
