"""Gathering what a report tells, by running what there is: verification, benchmark, pictures.

What cannot be had is told in its place: `DynexportError` sentences become part of the report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from dynexport.artifact import find_artifact
from dynexport.bench import BenchResult, bench_model
from dynexport.bench.timing import Plan
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import DynexportError, InputError, ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import read_metadata, read_model
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import load_images
from dynexport.progress import OnStep, silent
from dynexport.report.facts import EngineFacts, ModelFacts, Picture
from dynexport.report.pictures import draw_pictures, find_shown
from dynexport.report.steps import ExportedFile, list_engine_steps, list_steps
from dynexport.report.sweeps import read_sweep
from dynexport.sweep.rows import RESULT, SEARCHES, Sweep
from dynexport.verify import verify_model

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a report.

    backend   runtime of the ONNX files; None for each command's default
    plan      how long to measure; None measures nothing
    images    folder of images or .npz to show; None shows those of the reference bundles
    """

    backend: str | None = None
    plan: Plan | None = field(default_factory=Plan)
    images: Path | None = None

    @property
    def bench_flags(self) -> tuple[object, ...]:
        """As `dynexport bench` takes them."""
        rounds = () if self.plan is None else ("--rounds", self.plan.rounds)
        return ("--profile", "--no-pytorch", *rounds)


def gather_models(
    folder: Path, wanted: Wanted, on_step: OnStep = silent
) -> tuple[tuple[ModelFacts, ...], dict[str, str]]:
    """The models of a folder, by name, and what else lies there and why it is left out."""
    skipped: dict[str, str] = {}
    paths = sorted(folder.glob("*.onnx"))
    read = (_try(path.name, skipped, partial(read_exported, path)) for path in paths)
    found = [one for one in read if one is not None]
    engines, lost = _find_engines(folder, [one.path for one in found])
    models = tuple(gather_model(one, engines.get(one.path, ()), wanted, on_step) for one in found)
    return models, {**skipped, **lost}


def require_folder(folder: Path) -> None:
    """InputError unless it is one."""
    if not folder.is_dir():
        found = "is no folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {found}: give the folder that `dynexport convert` wrote into")


def gather_sweep(folder: Path) -> tuple[Sweep | None, dict[str, str]]:
    """The sweep of a folder, if one lies there, or the file that is none, and why."""
    try:
        return read_sweep(folder), {}
    except DynexportError as error:
        return None, {RESULT: str(error)}


def find_searches(folder: Path) -> tuple[str, ...]:
    """What the searches of a folder found: a file's name and the command that converts so."""
    found = []
    for path in sorted(folder.glob(SEARCHES)):
        try:
            command = json.loads(path.read_text(encoding="utf-8"))["command"]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # of something else
        found.append(f"{path.name} found `{command}`")
    return tuple(found)


def read_exported(path: Path) -> ExportedFile:
    """What an ONNX file tells of itself; ModelFileError unless dynexport wrote it."""
    graph = read_model(path)
    names = [str(value.name) for value in graph.graph.outputs]
    metadata = read_metadata(path, graph)
    if not _is_sound(metadata):
        raise ModelFileError(
            f"the dynexport metadata of {path} is damaged: convert the checkpoint again"
        )
    return ExportedFile(
        path=path,
        metadata=metadata,
        opset=graph.opset_imports[""],
        emits_kept=any(name.startswith("kept_") for name in names),
        pictured=_count_pictured(path, metadata),
    )


def _count_pictured(path: Path, metadata: Metadata) -> int:
    """Images in the reference bundle, unless they are those that `convert` draws itself."""
    try:
        images = ReferenceBundle.load(ReferenceBundle.path_beside(path)).images
    except DynexportError:
        return 0
    drawn = load_images(None, len(images), metadata.preprocessing)
    return 0 if np.array_equal(images, drawn) else len(images)


def _is_sound(metadata: Metadata) -> bool:
    """Whether what a report takes from a file's open fields is there, and of its type."""
    made, prune_at = metadata.precision.get("int8"), metadata.config.get("prune_at", ())
    try:
        if made is None:
            return isinstance(prune_at, (list, tuple))
        places, near = made["ranking"], made["nearness"]
        numbers = (made["tried"], near["agreement"], near["divergence"])
        harms = [place["divergence"] for place in places]
        layers = [layer for place in places for layer in place["layers"]]
        return (
            isinstance(prune_at, (list, tuple))
            and all(isinstance(number, (int, float)) for number in (*numbers, *harms))
            and all(isinstance(layer, str) for layer in (*layers, *made["raised"]))
            and all(place["layers"] for place in places)
        )
    except (TypeError, KeyError, AttributeError):
        return False


def _find_engines(
    folder: Path, models: Sequence[Path]
) -> tuple[dict[Path, list[tuple[Path, Sidecar]]], dict[str, str]]:
    """Engines by the model they were built from, and those of no model here."""
    engines: dict[Path, list[tuple[Path, Sidecar]]] = {}
    lost: dict[str, str] = {}
    for path in sorted(folder.glob("*.engine")):
        facts = _try(path.name, lost, partial(Sidecar.load, path))
        if facts is None:
            continue
        source = facts.onnx_beside(path)
        if source is not None and source in models:
            engines.setdefault(source, []).append((path, facts))
        else:
            lost[path.name] = f"it was built from {facts.onnx}, which is not here or was changed"
    return engines, lost


def gather_model(
    exported: ExportedFile,
    engines: Sequence[tuple[Path, Sidecar]],
    wanted: Wanted,
    on_step: OnStep = silent,
) -> ModelFacts:
    """Verify, time and show one model, and the engines built from it."""
    path, metadata = exported.path, exported.metadata
    left_out: dict[str, str] = {}
    on_step(f"verify {path.name}")
    verification = _try(
        "verification",
        left_out,
        lambda: verify_model(path, backend=wanted.backend, on_step=on_step),
    )
    bench = _measure(path, None, wanted, left_out, on_step)
    on_step(f"draw what {path.name} keeps")
    pictures, source = _try("pictures", left_out, lambda: _show(exported, wanted)) or ((), "")
    if not (metadata.precision.get("int8") or {}).get("ranking"):
        left_out["sensitivity"] = _no_sensitivity(metadata)
    return ModelFacts(
        file=path.name,
        path=str(path),
        size_bytes=path.stat().st_size,
        opset=exported.opset,
        metadata=metadata,
        macs=metadata.macs_sparse if metadata.keep_counts else metadata.macs_dense,
        ideal=metadata.ideal_speedup,
        verification=verification,
        bench=bench,
        pictures=pictures,
        pictures_of=source,
        engines=tuple(_gather_engine(*engine, path, wanted, on_step) for engine in engines),
        left_out=left_out,
        steps=list_steps(exported, wanted.bench_flags, wanted.backend),
    )


def _show(exported: ExportedFile, wanted: Wanted) -> tuple[tuple[Picture, ...], str]:
    """Pictures, and where the images are from; InputError where there is nothing to show."""
    path, metadata = exported.path, exported.metadata
    if not metadata.keep_counts:
        raise InputError("it is dense: it keeps every patch")
    images, source = find_shown(path, metadata, wanted.images)
    return draw_pictures(find_artifact(path, wanted.backend), metadata, images), source


def _no_sensitivity(metadata: Metadata) -> str:
    name = metadata.precision["name"]
    if metadata.precision.get("int8"):
        return "its layers were not ranked: convert with --fallback-to auto to rank them"
    return f"{name} quantises nothing by calibrated ranges, so there are no layers to rank"


def _measure(
    path: Path, engine: Path | None, wanted: Wanted, left_out: dict[str, str], on_step: OnStep
) -> BenchResult | None:
    """Times of a model or of an engine of it, and of its dense twin."""
    plan = wanted.plan
    if plan is None:
        left_out["latency"] = "nothing was timed: --no-bench was given"
        return None
    backends = () if wanted.backend is None or engine else (wanted.backend,)
    return _try(
        "latency",
        left_out,
        lambda: bench_model(
            path,
            engine=engine,
            backends=backends,
            pytorch=False,
            profile=True,
            plan=plan,
            on_step=lambda step: on_step(f"{path.name}: {step}"),
        ),
    )


def _gather_engine(
    path: Path, facts: Sidecar, model: Path, wanted: Wanted, on_step: OnStep
) -> EngineFacts:
    left_out: dict[str, str] = {}
    on_step(f"verify {path.name}")
    verification = _try(
        "verification", left_out, lambda: verify_model(model, engine=path, on_step=on_step)
    )
    return EngineFacts(
        file=path.name,
        size_bytes=path.stat().st_size,
        flavour=facts.flavour,
        version=facts.version,
        runs_on=facts.gpu or f"compute capability {', '.join(facts.capabilities)}",
        precision=facts.precision,
        batches=facts.batches,
        layers=len(facts.layers),
        fused_attention=facts.fused_attention,
        verification=verification,
        bench=_measure(model, path, wanted, left_out, on_step),
        steps=list_engine_steps(path, model, facts, wanted.bench_flags),
        left_out=left_out,
    )


def _try(section: str, left_out: dict[str, str], gather: Callable[[], T]) -> T | None:
    """What is gathered, or None and why in ``left_out``."""
    try:
        return gather()
    except DynexportError as error:
        left_out[section] = str(error)
        return None
