"""Keep counts, free at every stage, that meet a target: a latency, or a drop in accuracy.

`dynexport.sweep.descent` finds the way down, in PyTorch. Where on it the target is met, converted
files tell, timed or judged.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dynexport.compare.numbers import best_classes
from dynexport.conversion import Recipe, TrainedModel, open_checkpoint
from dynexport.conversion.recipe import as_recipe
from dynexport.errors import InputError, VerificationError
from dynexport.files import name_checkpoint, require_kept, require_writable, save
from dynexport.progress import OnStep, silent
from dynexport.sweep.descent import Point, Way, find_cheap, find_fast, judge_schedules, walk_down
from dynexport.sweep.inputs import Rig, of_one_batch, only_batch, open_judged, require_variable
from dynexport.sweep.measure import Quality, answer_densely
from dynexport.sweep.rows import SEARCH, Measured, measured_of
from dynexport.sweep.workbench import SearchJob, open_workbench

SEARCH_IMAGES = 32
"""The way down is found on so many, evenly spread."""


@dataclass(frozen=True)
class Trial:
    """A schedule that was converted, and what was found.

    Milliseconds of a batch, or points lost; None where its file failed verification.
    """

    ratios: tuple[float, ...]
    keep_counts: tuple[int, ...]
    found: float | None


@dataclass(frozen=True)
class Search:
    """The schedule that meets a target, and what its converted file was measured to do.

    criterion  "latency", milliseconds of a batch; or "drop", points of accuracy lost against the
               dense float32 model (of agreement with it, without labels); target, found: of that
    ratios     per stage, for ``dynexport convert --ratios``; command: all of it
    images     what was judged on; labelled: whether they have labels
    trials     every schedule that was converted, in order
    way        schedules from the one that keeps all down, as far as they were looked at
    """

    checkpoint: str
    criterion: str
    target: float
    found: float
    precision: str
    batch: int
    backend: str
    ratios: tuple[float, ...]
    measured: Measured
    images: str
    labelled: bool
    dense_accuracy: float | None
    command: str
    trials: tuple[Trial, ...]
    way: tuple[Point, ...]
    file: str


def search_schedule(
    recipe: Recipe | str | Path,
    *,
    target_latency: float | None = None,
    max_drop: float | None = None,
    data_images: int | None = None,
    rig: Rig | None = None,
    step: int | None = None,
    output: str | Path | None = None,
    on_step: OnStep = silent,
    on_warning: OnStep = silent,
) -> Search:
    """Find the schedule that meets a target: a latency, or a drop in accuracy.

    A latency with the least harm, a drop at the least cost.

    recipe          the checkpoint, or it and all else of the file that is sought. Its images are
                    judged on, as `sweep_checkpoint` has it
    target_latency  milliseconds of a batch, the median, in the rig's runtime
    max_drop        points of accuracy that may be lost against the dense float32 model; of
                    agreement with it, where images have no labels
    step            tokens a stage is lowered by at a time, by default 1/16 of the grid
    output          folder of the result, by default NAME-sweep

    VerificationError, with the best that was reached, if no schedule meets the target.
    """
    rig, recipe = rig or Rig(), of_one_batch(as_recipe(recipe))
    criterion, target = _require_target(target_latency, max_drop)
    _require_free(recipe, step)
    file = _require_result(output, recipe, criterion, target)
    trained = open_checkpoint(recipe)
    job = _open_job(recipe, rig, trained, data_images, on_step, on_warning)
    way = _open_way(job, trained, step)
    point, trials, measured = _find_point(job, way, criterion, target)
    result = Search(
        checkpoint=str(recipe.checkpoint),
        criterion=criterion,
        target=target,
        found=next(t.found for t in trials if t.ratios == point.ratios and t.found is not None),
        precision=recipe.typing().name,
        batch=only_batch(recipe),
        backend=rig.backend,
        ratios=point.ratios,
        measured=measured,
        images=job.images.described,
        labelled=job.images.labels is not None,
        dense_accuracy=job.dense_accuracy,
        command=dataclasses.replace(recipe, ratios=point.ratios).to_command(),
        trials=trials,
        way=tuple(way.points),
        file=str(file),
    )
    save(file, (json.dumps(dataclasses.asdict(result), indent=2) + "\n").encode())
    return result


def _require_target(target_latency: float | None, max_drop: float | None) -> tuple[str, float]:
    """The criterion and its target; InputError unless there is one, and it can be met at all."""
    if target_latency is not None and max_drop is None:
        if not 0 < target_latency < float("inf"):
            raise InputError(
                f"a latency of {target_latency:g} ms is not valid: give one above 0, as in 12ms"
            )
        return "latency", target_latency
    if max_drop is not None and target_latency is None:
        if not 0 <= max_drop <= 100:
            raise InputError(
                f"a drop of {max_drop:g} points is not valid: give 0 to 100, as in 0.5"
            )
        return "drop", max_drop
    raise InputError("a search has one target: give `target_latency` or `max_drop`")


def _require_free(recipe: Recipe, step: int | None) -> None:
    """InputError unless the search can choose counts."""
    require_variable(recipe)
    only_batch(recipe)
    if step is not None and step < 1:
        raise InputError(f"a step of {step} tokens is not valid: give at least 1")
    if recipe.align != 1:
        raise InputError("a search chooses the counts itself: leave `align` out")


def _require_result(
    output: str | Path | None, recipe: Recipe, criterion: str, target: float
) -> Path:
    """The file to write; InputError unless it can be, and is nothing that is read."""
    kind, batch = recipe.typing(), only_batch(recipe)
    name = SEARCH.format(criterion=criterion, target=target, precision=kind.name, batch=batch)
    folder = f"{name_checkpoint(recipe.checkpoint)}-sweep" if output is None else output
    file = Path(folder) / name
    require_writable(file)
    require_kept((recipe.checkpoint, recipe.images, kind.calibration_data), file)
    return file


def _open_job(
    recipe: Recipe,
    rig: Rig,
    trained: TrainedModel,
    count: int | None,
    on_step: OnStep,
    on_warning: OnStep,
) -> SearchJob:
    """The images to judge on, and the dense model's classes of them."""
    images = open_judged(recipe, count, trained)
    on_step(f"ask the dense model for the classes of {images.described}")
    dense = best_classes(answer_densely(trained, images))
    return SearchJob(recipe, rig, images, dense, on_step, on_warning)


def _open_way(job: SearchJob, trained: TrainedModel, step: int | None) -> Way:
    """The way down, on a few of the images; each point is told of as it is found."""
    config = trained.config
    few = open_judged(job.recipe, min(SEARCH_IMAGES, job.images.count), trained)
    job.on_step("count the multiply-accumulates of a few schedules")
    judge = judge_schedules(trained, few)
    return Way(_tell(walk_down(judge, config.num_tokens, len(config.prune_at), step), job.on_step))


def _tell(points: Iterator[Point], on_step: OnStep) -> Iterator[Point]:
    """The same points, each told of as it is found."""
    for point in points:
        counts = ", ".join(map(str, point.keep_counts))
        on_step(f"on the way down: {counts} tokens, divergence {point.divergence:.1e}")
        yield point


def _find_point(
    job: SearchJob, way: Way, criterion: str, target: float
) -> tuple[Point, tuple[Trial, ...], Measured]:
    """Where on the way the target is met, what was tried for it, and what its file does."""
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = open_workbench(job, Path(folder))

        def latency(point: Point) -> float | None:
            return _record(trials, point, lambda: bench.time(point).model_ms)

        def drop(point: Point) -> float | None:
            return _record(
                trials, point, lambda: _points_lost(bench.judge(point), job.dense_accuracy)
            )

        if criterion == "latency":
            point = find_fast(way, latency, target)
        else:
            point = find_cheap(way, drop, target)
        measured = measured_of(bench.make(point), bench.time(point), bench.judge(point))
    return point, tuple(trials), measured


def _record(trials: list[Trial], point: Point, find: Callable[[], float]) -> float | None:
    """What is found of a point, among the trials too; None where its file fails verification."""
    try:
        found: float | None = find()
    except VerificationError:
        found = None
    trials.append(Trial(point.ratios, point.keep_counts, found))
    return found


def _points_lost(found: Quality, accuracy: float | None) -> float:
    if found.accuracy is None or accuracy is None:
        return 100.0 * (1.0 - found.agreement)
    return 100.0 * (accuracy - found.accuracy)
