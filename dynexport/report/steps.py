"""The commands that make a model and measure it again, as a shell takes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynexport.bench.timing import Plan
from dynexport.conversion import Recipe
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import InputError
from dynexport.formats.metadata import Metadata
from dynexport.precision import Precision
from dynexport.report.facts import Step
from dynexport.schedule import KeepSchedule, Schedule, linear_schedule, power_schedule
from dynexport.sweep.ratios import ratios_of
from dynexport.tasks import DEFAULT, task_of

BUILT_IN: Mapping[str, Schedule] = {
    "convnext": linear_schedule,
    "deit": power_schedule,
    "lvvit": power_schedule,
    "swin": linear_schedule,
}
"""Families that need no plugin, and how each makes its ratios of one."""

LONGEST_RATIO = 12
"""Characters of a ratio that a person wrote; longer ones were computed."""

HEAD_DIM = 64
"""Channels of an attention head, where a checkpoint says nothing else."""


@dataclass(frozen=True)
class ExportedFile:
    """What an ONNX file of dynexport's tells of itself.

    pictured  how many images of the user's its reference bundle holds
    """

    path: Path
    metadata: Metadata
    opset: int
    emits_kept: bool
    pictured: int = 0


def list_steps(
    exported: ExportedFile, bench: Iterable[object], backend: str | None
) -> tuple[Step, ...]:
    """What makes, verifies and times a model, as commands.

    A file says what it was made from, not where that lies, so the first lines set it.

    ``bench``: what `dynexport bench` is told beside the model.
    """
    path = exported.path
    runtime = () if backend is None else ("--backend", backend)
    made = []
    with suppress(InputError):  # of a precision that is not known here
        made.append(Step("convert", _for_shell(rebuild_recipe(exported))))
    return (
        *_sources(exported),
        *made,
        Step("verify", command("verify", path, *runtime)),
        Step("time", command("bench", path, *runtime, *bench)),
    )


def list_engine_steps(
    engine: Path, model: Path, facts: Sidecar, bench: Iterable[object]
) -> tuple[Step, ...]:
    """What builds, verifies and times an engine."""
    options = [part for one in facts.batches for part in ("--batch", one)]
    for name, value in vars(facts.options).items():
        flag = "--" + name.removesuffix("_mib").replace("_", "-")
        if value is True:
            options.append(flag)
        elif name == "compute_capabilities" and value:
            options += ["--compute-capability", ",".join(value)]
        elif value not in (None, False, ()):
            options += [flag, str(value)]
    made = ("--backend", facts.flavour, *options, "-o", engine)
    return (
        Step("build", command("build", model, *made)),
        Step("verify", command("verify", model, "--engine", engine)),
        Step("time", command("bench", model, "--engine", engine, *bench)),
    )


def command(name: str, *arguments: object) -> str:
    """A line for a shell, arguments quoted."""
    return shlex.join(["dynexport", name, *map(str, arguments)])


def report_step(
    folder: Path,
    output: str | Path | None,
    images: str | Path | None,
    backend: str | None,
    plan: Plan | None,
) -> Step:
    """What makes a report again."""
    told = (("--images", images), ("--backend", backend), ("-o", output))
    flags = [part for name, value in told if value is not None for part in (name, value)]
    timed = ["--no-bench"] if plan is None else ["--rounds", plan.rounds]
    if plan is not None and plan.round_seconds != Plan().round_seconds:
        timed += ["--round-seconds", plan.round_seconds]
    return Step("report", command("report", folder, *flags, *timed))


def _sources(exported: ExportedFile) -> Iterator[Step]:
    """What has to be at hand."""
    metadata = exported.metadata
    sha256 = metadata.checkpoint_sha256
    yield Step(f"the checkpoint, SHA-256 {sha256}", "CHECKPOINT=path/to/checkpoint.pth")
    if _calibrated(metadata):
        images = metadata.precision["images"]
        yield Step(f"what it was calibrated on, {images}", "CALIBRATION=path/to/images")
    elif exported.pictured:
        told = f"what the reference bundle was recorded on, {exported.pictured} images"
        yield Step(told, "IMAGES=path/to/images")
    if metadata.family not in BUILT_IN:
        yield Step(
            f"the file that defines the family {metadata.family}", "PLUGIN=path/to/plugin.py"
        )


def _calibrated(metadata: Metadata) -> re.Match[str] | None:
    """How many images of what; None for the reference bundle's."""
    return re.fullmatch(r"(\d+) images of .+", str(metadata.precision.get("images") or ""))


def _keeping(metadata: Metadata) -> dict[str, Any]:
    """The one ratio that the family makes these of, or all of them: as they were given, and
    computed ones as the shortest that keep as many tokens."""
    ratios = metadata.ratios
    if ratios is None:
        return {"dense": True}
    schedule = BUILT_IN.get(metadata.family)
    if schedule and schedule(ratios[0], len(ratios)).ratios == ratios:
        return {"ratio": ratios[0]}
    if all(len(repr(ratio)) <= LONGEST_RATIO for ratio in ratios):
        return {"ratios": ratios}
    counts = KeepSchedule(ratios).counts(metadata.num_tokens)
    return {"ratios": ratios_of(counts, metadata.num_tokens)}


def rebuild_recipe(exported: ExportedFile) -> Recipe:
    """What it was converted by, as far as the file shows.

    Files that it does not name are variables of the shell.
    """
    metadata = exported.metadata
    config, calibrated = metadata.config, _calibrated(metadata)
    heads, width = config.get("num_heads"), config.get("embed_dim")
    usual = not isinstance(heads, int) or width == HEAD_DIM * heads
    return Recipe(
        "$CHECKPOINT",
        **_keeping(metadata),
        align=metadata.align,
        batch=metadata.batch,
        img_size=config.get("img_size"),
        prune_at=tuple(config.get("prune_at", ())) or None,
        num_heads=None if usual else heads,
        weights=None if metadata.weights == "bare" else metadata.weights,
        task=_rebuild_task(metadata),
        images="$IMAGES" if exported.pictured and not calibrated else None,
        emit_kept=exported.emits_kept,
        opset=exported.opset,
        precision=_rebuild_precision(metadata),
        target=metadata.target,
        output=exported.path,
        plugins=() if metadata.family in BUILT_IN else ("$PLUGIN",),
    )


def _rebuild_task(metadata: Metadata) -> str | None:
    task = task_of(metadata.outputs)
    return None if task is None or task.name == DEFAULT else task.name


def _rebuild_precision(metadata: Metadata) -> Precision:
    found, calibrated = metadata.precision, _calibrated(metadata)
    made = found.get("int8")
    usual = Precision()
    return Precision(
        found["name"],
        io="half" if found.get("io") == "half" else "fp32",
        calibration_data="$CALIBRATION" if calibrated else None,
        calibration_images=int(calibrated[1]) if calibrated else usual.calibration_images,
        fallback_to="auto" if made and made["ranking"] else None,
    )


def _for_shell(recipe: Recipe) -> str:
    """Its command; variables are filled in by the shell."""
    return re.sub(r"'(\$[A-Z]+)'", r'"\1"', recipe.to_command())
