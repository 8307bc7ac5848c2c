"""From a checkpoint to a verified ONNX file, its reference bundle, and an engine where asked."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dynexport.artifact import onnx_artifact
from dynexport.engine import EngineBuild, build_engine
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import InputError, ScheduleError
from dynexport.files import (
    name_checkpoint,
    require_kept,
    require_onnx_target,
    require_writable,
    written_whole,
)
from dynexport.formats.metadata import Batch, ExportSpec, Metadata, as_json
from dynexport.formats.onnx_file import Exported
from dynexport.formats.reference import REFERENCE_IMAGES, ReferenceBundle
from dynexport.graph.counts import recount
from dynexport.graph.fuse import fuse_operators, require_target
from dynexport.images import ImageSet, Preprocessing, load_images, synthetic_images
from dynexport.precision import Precision, PrecisionReport, convert_precision
from dynexport.progress import OnProgress, OnStep, silent
from dynexport.pytorch import require_convert_extras
from dynexport.runtimes.tensorrt import find_edition
from dynexport.runtimes.tensorrt.builder import require_buildable
from dynexport.runtimes.tensorrt.limits import top_k_warnings
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.schedule import KeepSchedule, parse_ratios, schedule_from_base
from dynexport.verify import Verification, verify_artifact

if TYPE_CHECKING:
    from dynexport.models import Config, Family, SparseModel
    from dynexport.pytorch.checkpoint import Checkpoint
    from dynexport.pytorch.rewrite import Proof


@dataclass(frozen=True)
class Conversion:
    """What `convert` made.

    onnx, reference    the files
    proof              inference form against training form, in PyTorch
    verification       ONNX against PyTorch
    precision          what was done to type it
    warnings           what a runtime is known to refuse of it
    engine             built of it, where one was asked for
    seconds            per step, in order
    """

    onnx: str
    reference: str
    size_bytes: int
    metadata: Metadata
    proof: Proof
    verification: Verification
    precision: PrecisionReport
    warnings: tuple[str, ...]
    engine: EngineBuild | None
    seconds: dict[str, float]


def convert(
    checkpoint: str | Path,
    *,
    ratio: float | None = None,
    ratios: str | tuple[float, ...] | None = None,
    align: int = 1,
    dense: bool = False,
    model: str | None = None,
    prune_at: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    img_size: int | None = None,
    task: str | None = None,
    weights: str | None = None,
    batch: str | int = 8,
    images: str | Path | None = None,
    emit_kept: bool = False,
    opset: int = 20,
    precision: str | Precision = "fp32",
    target: str = "any",
    engine: str | Path | None = None,
    edition: str | None = None,
    output: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    on_step: OnStep = silent,
    on_warning: OnStep = silent,
    on_progress: OnProgress = lambda phase, done, steps: None,
) -> Conversion:
    """Turn a checkpoint into a verified ONNX file and its reference bundle.

    ratio, ratios  keep ratio of the family's schedule, or one per stage; by default the ratio
                   the checkpoint was trained with. ``dense`` exports the twin that drops nothing
    align          keep a few tokens more, so that blocks compute a multiple of so many rows, the
                   class token's included; see `dynexport.schedule.align_counts`
    model, prune_at, num_heads, weights  settle what the checkpoint leaves open
    img_size       another image size than it was trained at, pixels
    task           "classify" (the default), or "features": the maps of a Swin's or a ConvNeXt's
                   four stages as outputs feat_0 ... feat_3
    batch          "8" (static) or "1:8:64" (dynamic: smallest, optimal, largest)
    images         folder of pictures or .npz for the reference bundle; without, calibration
                   images if there are any, else synthetic ones
    emit_kept      adds outputs kept_0 ... with the positions kept
    precision      of weights and activations, by name or with all it takes
    target         "any" runtime, or "tensorrt": standard operators alone
    engine         build an engine as well, to this file
    edition        of the TensorRT that builds it: "tensorrt", "tensorrt-rtx", or "auto" for what is
                   installed. Without ``engine`` it goes beside the ONNX file
    output         the .onnx to write; by default named after the checkpoint, in this folder
    plugins        files that define families of their own; their code runs

    ``on_step`` is told of each step, ``on_warning`` of what a runtime will refuse, ``on_progress``
    of how far calibration is, and of an engine's phases. Raises DynexportError's subclasses; then
    nothing was written, but for the ONNX file and its bundle where only the engine cannot be built.
    """
    sizes = Batch.parse(str(batch))
    if dense and (ratio is not None or ratios is not None or align != 1):
        raise ScheduleError("--dense drops nothing, so it takes no --ratio, --ratios or --align")
    require_convert_extras()
    from dynexport.models import load_plugins
    from dynexport.pytorch.checkpoint import build_model, identify, load_checkpoint
    from dynexport.pytorch.export import export_onnx, record_reference
    from dynexport.pytorch.model import describe_original
    from dynexport.pytorch.rewrite import prove, rewrite

    load_plugins(plugins)
    wanted = precision if isinstance(precision, Precision) else Precision(precision)
    require_target(target)
    builder = None if engine is None and edition is None else find_edition(edition or "auto")
    if builder is not None:
        wanted.require_engine(builder.name)
        require_buildable(builder, BuildOptions())
    clock = _Clock(on_step)
    with clock("read the checkpoint"):
        loaded = load_checkpoint(checkpoint, weights)
        family, config = identify(loaded, model, prune_at, num_heads, img_size, task)
        keep = None if dense else choose_schedule(loaded, family, config, ratio, ratios)
        keep = keep and dataclasses.replace(keep, align=align)
        trained = build_model(loaded, family, config)
        name = _default_name(loaded.path, keep, ratio, task, wanted.name)
        onnx_file = Path(name if output is None else output)
        beside = _reference_beside(onnx_file, Path(checkpoint), images, wanted.calibration_data)
        steps = Preprocessing.for_size(config.img_size)
        calibration_images = wanted.open_images(steps)
        engine_file = _engine_beside(onnx_file, engine)
        if builder is not None:
            for file in (engine_file, Sidecar.path_beside(engine_file)):
                require_writable(file)
    with clock("rewrite masks to top-k gathers"):
        lean = rewrite(trained, keep)
        pictures = _reference_images(images or wanted.calibration_data, steps)
    with clock("prove it against the training form"):
        proof = prove(trained, lean, keep, steps.to_input(pictures[:2]))
    with clock("record PyTorch's answers"):
        origin = OpenedCheckpoint(loaded, family, config, trained)
        spec = describe_export(origin, keep, proof.outputs, sizes, target)
        warnings = top_k_warnings(spec.selection, spec.keep_counts, spec.num_tokens)
        for warning in warnings:
            on_warning(warning)
        bundle = record_reference(lean, spec, pictures)
    with clock("export ONNX"):
        exported = export_onnx(lean, spec, emit_kept=emit_kept, opset=opset)
    typing = PrecisionReport("fp32")
    if wanted.name != typing.name:
        with clock(f"convert to {wanted.name}"):
            exported, typing = type_export(
                exported, wanted, calibration_images, steps.to_input(pictures), on_progress
            )
    if target == "any":
        fuse_operators(exported.graph)
    content = exported.to_bytes()
    with (
        clock("verify ONNX against PyTorch"),
        written_whole(onnx_file, beside) as (onnx_draft, bundle_draft),
    ):
        onnx_draft.write_bytes(content)
        bundle.save(bundle_draft)
        artifact = onnx_artifact(onnx_draft, exported.graph, exported.metadata)
        original = describe_original(lean, spec)
        outcome = verify_artifact(artifact, bundle, str(beside), original=original)
        outcome = dataclasses.replace(outcome, model=str(onnx_file))
        outcome.require_passed()
    built = None
    if builder is not None:
        with clock(f"build the engine with {builder.name}"):
            built = build_engine(
                onnx_file,
                edition=builder.name,
                output=engine_file,
                on_progress=on_progress,
            )
    return Conversion(
        onnx=str(onnx_file),
        reference=str(beside),
        size_bytes=len(content),
        metadata=exported.metadata,
        proof=proof,
        verification=outcome,
        precision=typing,
        warnings=warnings,
        engine=built,
        seconds=clock.seconds,
    )


def choose_schedule(
    loaded: Checkpoint,
    family: Family,
    config: Config,
    ratio: float | None,
    ratios: str | tuple[float, ...] | None,
) -> KeepSchedule:
    """The keep schedule asked for, or the one the checkpoint was trained with."""
    if ratio is not None and ratios is not None:
        raise ScheduleError("--ratio and --ratios were both given: give one of the two")
    if ratios is not None:
        return parse_ratios(ratios) if isinstance(ratios, str) else KeepSchedule(tuple(ratios))
    base = ratio if ratio is not None else loaded.args.get("base_rate")
    if not isinstance(base, (int, float)):
        raise ScheduleError(
            f"{loaded.path} does not say what keep ratio it was trained with: "
            "give one, as in --ratio 0.7"
        )
    return schedule_from_base(family.schedule, float(base), len(config.prune_at))


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint, what it is, and its training form."""

    loaded: Checkpoint
    family: Family
    config: Config
    trained: SparseModel


def describe_export(
    opened: OpenedCheckpoint,
    keep: KeepSchedule | None,
    outputs: Mapping[str, tuple[int, ...]],
    batch: Batch,
    target: str,
) -> ExportSpec:
    """What is known of an export before its graph; ``outputs``: name -> shape for one image."""
    from dynexport.models import variant_name
    from dynexport.pytorch.rewrite import keep_counts

    config: Any = opened.config
    packages = ("dynexport", "torch", "onnx", "onnxscript", "onnx-ir")
    return ExportSpec(
        family=opened.family.name,
        variant=variant_name(opened.family, config),
        config=as_json(config),
        ratios=None if keep is None else keep.ratios,
        keep_counts=() if keep is None else keep_counts(opened.trained, keep),
        num_tokens=config.num_tokens,
        selection=opened.trained.selection,
        batch=str(batch),
        outputs=dict(outputs),
        preprocessing=Preprocessing.for_size(config.img_size),
        checkpoint_sha256=opened.loaded.sha256,
        weights=opened.loaded.weights,
        precision=as_json(PrecisionReport("fp32")),
        target=target,
        versions={name: importlib.metadata.version(name) for name in packages},
        align=1 if keep is None else keep.align,
    )


def type_export(
    exported: Exported,
    precision: Precision,
    images: ImageSet | None,
    pictures: NDArray[np.float32],
    on_progress: OnProgress,
) -> tuple[Exported, PrecisionReport]:
    """A float32 export in another precision, as `convert_precision` has it; counted anew."""
    graph, report = convert_precision(
        exported.graph, exported.metadata, precision, images, pictures, on_progress
    )
    metadata = recount(graph, exported.metadata)
    metadata = dataclasses.replace(metadata, precision=as_json(report))
    return Exported(graph, metadata), report


def _reference_images(source: str | Path | None, steps: Preprocessing) -> Any:
    if source is None:
        return synthetic_images(REFERENCE_IMAGES, steps.img_size)
    return load_images(Path(source), REFERENCE_IMAGES, steps)


def _reference_beside(target: Path, *inputs: str | Path | None) -> Path:
    """Where the bundle of ``target`` goes; InputError if either cannot be written, or is one of
    the files read."""
    require_onnx_target(target)
    beside = ReferenceBundle.path_beside(target)
    require_writable(beside)
    require_kept(inputs, target, beside)
    return beside


def _engine_beside(onnx_file: Path, engine: str | Path | None) -> Path:
    """The engine to write; InputError for a name that looks like none."""
    file = onnx_file.with_suffix(".engine") if engine is None else Path(engine)
    if file.suffix != ".engine":
        raise InputError(
            f"{file} does not end in .engine: name the engine to write; which TensorRT builds it, "
            "its edition says, as in tensorrt-rtx"
        )
    return file


def _default_name(
    checkpoint: Path,
    keep: KeepSchedule | None,
    ratio: float | None,
    task: str | None,
    precision: str,
) -> str:
    stem = name_checkpoint(checkpoint)
    if task not in (None, "classify"):
        stem = f"{stem}-{task}"
    typed = "" if precision == "fp32" else f"-{precision}"
    if keep is None:
        return f"{stem}-dense{typed}.onnx"
    ratios = [ratio] if ratio is not None else keep.ratios
    aligned = "" if keep.align == 1 else f"-align{keep.align}"
    return f"{stem}-{'-'.join(f'{value:g}' for value in ratios)}{aligned}{typed}.onnx"


class _Clock:
    """Times the steps of a command, and tells of each as it begins."""

    def __init__(self, on_step: OnStep) -> None:
        self.seconds: dict[str, float] = {}
        self._on_step = on_step

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._on_step(step)
        start = perf_counter()
        yield
        self.seconds[step] = perf_counter() - start
