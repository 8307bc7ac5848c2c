"""A checkpoint at many keep ratios: a row a configuration, each on disk when it is finished."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from dynexport.compare.numbers import best_classes, share_of
from dynexport.conversion import Recipe, TrainedModel
from dynexport.conversion.recipe import as_recipe
from dynexport.errors import DynexportError, InputError
from dynexport.files import name_checkpoint, save
from dynexport.images import DAMAGED_NPZ, ImageSet
from dynexport.precision import Precision
from dynexport.progress import OnStep, silent
from dynexport.sweep.inputs import Rig
from dynexport.sweep.journal import Journal, open_journal
from dynexport.sweep.measure import (
    Made,
    Quality,
    answer_densely,
    judge_file,
    keep_file,
    make_at_batch,
    make_file,
    time_file,
)
from dynexport.sweep.plan import DENSE, SweepPlan, describe_sweep, plan_sweep
from dynexport.sweep.rows import ROWS, Key, Row, Sweep, find_best, measured_of, write_sweep

MAKING, MODELS = ".making", "models"
"""In an output folder too: the files that are being tried, those kept."""

ELSEWHERE = "choose another folder with -o"


@dataclass(frozen=True, eq=False)
class SweepJob:
    """All that trying a configuration takes; dense: the dense model's classes, int64 (count,)."""

    plan: SweepPlan
    dense: NDArray[np.int64]
    keep_models: bool
    on_step: OnStep
    on_warning: OnStep


def sweep_checkpoint(
    recipe: Recipe | str | Path,
    ratios: str | Sequence[float],
    *,
    precisions: Sequence[str | Precision] | None = None,
    batches: Sequence[int] | None = None,
    data_images: int | None = None,
    rig: Rig | None = None,
    output: str | Path | None = None,
    keep_models: bool = False,
    retry_failed: bool = False,
    on_step: OnStep = silent,
    on_warning: OnStep = silent,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Sweep:
    """Measure a checkpoint at every keep ratio and precision: latency and accuracy.

    Each is timed at every batch size beside its dense twin, and judged beside the dense float32
    model.

    recipe        the checkpoint, or it and what it leaves open. Its images, a folder or an .npz,
                  are what is judged on, ``data_images`` up to so many of them, evenly spread;
                  without, synthetic ones
    ratios        base ratios of the family's schedule, see
                  `dynexport.sweep.ratios.parse_ratio_list`
    precisions, batches  by default the recipe's
    rig           how latencies are measured
    output        folder of rows, table and plot, by default NAME-sweep. Rows found there are not
                  made again; InputError if they are of another sweep
    keep_models   keep the ONNX files too
    retry_failed  try those again that failed

    A configuration that fails is a row that says why; ``on_row`` is told of each as it is finished.
    """
    start = perf_counter()
    rig, recipe = rig or Rig(), as_recipe(recipe)
    plan = plan_sweep(recipe, rig, ratios, precisions, batches, data_images, output)
    with open_journal(plan.folder / ROWS, describe_sweep(plan), ELSEWHERE) as journal:
        shutil.rmtree(plan.folder / MAKING, ignore_errors=True)  # of a sweep that was killed
        done = _find_done(journal, plan, retry_failed)
        missing = [key for key in plan.keys if key not in done]
        on_step(f"ask the dense model for the classes of {plan.images.described}")
        dense = _dense_classes(plan.folder / DENSE, plan.trained, plan.images)
        job = SweepJob(plan, dense, keep_models, on_step, on_warning)
        for row in try_missing(job, missing):
            journal.append(dataclasses.asdict(row))
            done[row.key] = row
            on_row(row)
    rows = tuple(done[key] for key in plan.keys)
    result = _gather(plan, rows, dense, resumed=len(plan.keys) - len(missing))
    return write_sweep(dataclasses.replace(result, seconds=perf_counter() - start))


def _find_done(journal: Journal, plan: SweepPlan, retry_failed: bool) -> dict[Key, Row]:
    """The rows finished, by configuration, the last one of each; InputError where a precision was
    made with other settings."""
    rows = [Row.read(row, plan.folder / ROWS) for row in journal.rows]
    for row in rows:
        if plan.settings.get(row.precision, row.settings) != row.settings:
            raise InputError(
                f"its {row.precision} rows were made with other calibration images or settings: "
                f"{ELSEWHERE}"
            )
    done = {row.key: row for row in rows}
    if retry_failed:
        return {key: row for key, row in done.items() if row.measured is not None}
    return done


def _dense_classes(path: Path, trained: TrainedModel, images: ImageSet) -> NDArray[np.int64]:
    """The dense float32 model's class of each image, int64 (count,), from disk where known."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            classes: NDArray[np.int64] = stored["classes"]
        if classes.shape == (images.count,):
            return classes
    except (OSError, *DAMAGED_NPZ):
        pass
    classes = best_classes(answer_densely(trained, images))
    content = io.BytesIO()
    np.savez(content, classes=classes)
    save(path, content.getvalue())
    return classes


def _gather(
    plan: SweepPlan, rows: tuple[Row, ...], dense: NDArray[np.int64], resumed: int
) -> Sweep:
    """What was found, before anything is written of it."""
    labels = plan.images.labels
    return Sweep(
        checkpoint=str(plan.recipe.checkpoint),
        folder=str(plan.folder),
        backend=plan.rig.backend,
        threads=plan.rig.threads,
        images=plan.images.described,
        labelled=labels is not None,
        dense_accuracy=None if labels is None else share_of(dense, labels),
        rows=rows,
        front=find_best(rows),
        resumed=resumed,
        files=(),
        notes=(),
        seconds=0.0,
    )


def try_missing(job: SweepJob, missing: Sequence[Key]) -> Iterator[Row]:
    """A row for each configuration that is missing, as it is finished.

    Each ratio and precision is converted once, and its file set to the batch sizes asked for.
    """
    groups: dict[tuple[float, str], list[int]] = {}
    for ratio, name, batch in missing:
        groups.setdefault((ratio, name), []).append(batch)
    making = job.plan.folder / MAKING
    for number, ((ratio, name), batches) in enumerate(groups.items(), start=1):
        told = f"{number} of {len(groups)}, ratio {ratio} in {name}"
        making.mkdir(parents=True, exist_ok=True)
        try:
            yield from _try_group(job, ratio, name, batches, told)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _try_group(
    job: SweepJob, ratio: float, name: str, batches: Sequence[int], told: str
) -> Iterator[Row]:
    """The rows of one ratio and precision."""
    start, plan = perf_counter(), job.plan
    largest = plan.batches[-1]
    unknown = Row(ratio, name, largest, plan.settings[name], None)
    try:
        job.on_step(f"{told}: convert")
        recipe = dataclasses.replace(
            plan.recipe,
            ratio=ratio,
            precision=plan.kinds[name],
            batch=largest,
            output=_name_file(plan, unknown.key),
        )
        made = make_file(recipe, job.on_warning)
        job.on_step(f"{told}: classify {plan.images.described}")
        quality = judge_file(made, plan.rig.backend, plan.images, job.dense)
    except DynexportError as error:
        for batch in batches:
            yield dataclasses.replace(unknown, batch=batch, failure=str(error))
        return
    for batch in batches:
        job.on_step(f"{told}: time at batch {batch}")
        row = _time_row(job, dataclasses.replace(unknown, batch=batch), made, quality)
        yield dataclasses.replace(row, seconds=round(perf_counter() - start, 2))
        start = perf_counter()


def _time_row(job: SweepJob, row: Row, made: Made, quality: Quality) -> Row:
    """The row of one batch size: its file timed, and kept where that was asked for."""
    plan, file = job.plan, made
    try:
        if row.batch != plan.batches[-1]:
            file = make_at_batch(made, row.batch, _name_file(plan, row.key))
        times = time_file(file, plan.rig)
    except DynexportError as error:
        return dataclasses.replace(row, failure=str(error))
    measured = measured_of(file, times, quality)
    kept = str(keep_file(file, plan.folder / MODELS)) if job.keep_models else ""
    return dataclasses.replace(row, measured=measured, model=kept)


def _name_file(plan: SweepPlan, key: Key) -> Path:
    ratio, precision, batch = key
    stem = name_checkpoint(plan.recipe.checkpoint)
    return plan.folder / MAKING / f"{stem}-{ratio}-{precision}-b{batch}.onnx"
