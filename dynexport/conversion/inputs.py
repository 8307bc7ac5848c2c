"""What a conversion starts from: the checkpoint as a model, and the files that it is to write."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from dynexport.conversion.recipe import Recipe
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import CheckpointError, InputError, ScheduleError
from dynexport.files import name_checkpoint, require_kept, require_onnx_target, require_writable
from dynexport.formats.onnx_file import data_beside
from dynexport.formats.reference import REFERENCE_IMAGES, ReferenceBundle
from dynexport.images import ImageSet, Preprocessing, load_images
from dynexport.pytorch import require_convert_extras
from dynexport.runtimes.tensorrt import find_edition
from dynexport.runtimes.tensorrt.builder import require_buildable
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.schedule import KeepSchedule, schedule_from_base
from dynexport.tasks import DEFAULT

if TYPE_CHECKING:
    from dynexport.models import Assumption, Config, Family, SparseModel
    from dynexport.pytorch.checkpoint import Checkpoint


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint as the model it holds: the file, what it is, and its training form.

    preprocessing  from a picture to its input
    assumed        what of all that nothing told
    """

    checkpoint: Checkpoint
    family: Family
    config: Config
    model: SparseModel
    preprocessing: Preprocessing
    assumed: tuple[Assumption, ...]


@dataclass(frozen=True)
class Targets:
    """The files to write; the engine where one is asked for, and the edition that builds it."""

    onnx: Path
    reference: Path
    engine: Path
    edition: str | None


class Inputs(NamedTuple):
    """All that a conversion reads before it computes, and where its results go.

    keep    the keep schedule; None drops nothing
    steps   from a picture to the model's input
    images  those that ranges are read off, or that are looked on for values too large
    """

    trained: TrainedModel
    keep: KeepSchedule | None
    targets: Targets
    steps: Preprocessing
    images: ImageSet | None


def read_inputs(recipe: Recipe, edition: str | None) -> Inputs:
    """Read and check everything; DynexportError says what cannot be used."""
    trained = open_checkpoint(recipe)
    keep = choose_schedule(recipe, trained)
    targets = choose_targets(recipe, keep, edition)
    steps = trained.preprocessing
    return Inputs(trained, keep, targets, steps, recipe.typing().open_images(steps))


def read_pictures(recipe: Recipe, steps: Preprocessing) -> NDArray[Any]:
    """The images of the reference bundle, as `load_images` gives them.

    The recipe's, else calibration images, else synthetic ones.
    """
    source = recipe.images or recipe.typing().calibration_data
    return load_images(source, REFERENCE_IMAGES, steps)


def open_checkpoint(recipe: Recipe) -> TrainedModel:
    """Read a checkpoint, and fill the model it belongs to; CheckpointError says what is wrong."""
    require_convert_extras(recipe.checkpoint)
    from dynexport.models import load_plugins
    from dynexport.pytorch.checkpoint import load_checkpoint
    from dynexport.pytorch.identify import build_model, find_assumptions, identify
    from dynexport.pytorch.transform import read_preprocessing

    load_plugins(recipe.plugins)
    loaded = load_checkpoint(recipe.checkpoint, recipe.weights)
    loaded = dataclasses.replace(loaded, args={**loaded.args, **recipe.told_args()})
    told = (recipe.model, recipe.prune_at, recipe.num_heads, recipe.img_size)
    family, config = identify(loaded, *told, recipe.task)
    steps, of_pictures = read_preprocessing(
        loaded.args,
        config,
        mean=recipe.mean,
        std=recipe.std,
        crop_pct=recipe.crop_pct,
        warp=recipe.warp,
    )
    assumed = (*find_assumptions(loaded, family, config, *told), *of_pictures)
    if assumed and recipe.strict:
        raise CheckpointError(
            f"{loaded.path} does not say all of what it is; assumed would be: "
            + "; ".join(map(str, assumed))
        )
    model = build_model(loaded, family, config)
    return TrainedModel(loaded, family, config, model, steps, assumed)


def choose_schedule(recipe: Recipe, trained: TrainedModel) -> KeepSchedule | None:
    """The keep schedule asked for, or that of the training; None drops nothing."""
    if recipe.dense:
        return None
    given = recipe.stage_ratios()
    if given is not None:
        return given
    base = _trained_ratio(trained) if recipe.ratio is None else recipe.ratio
    if not isinstance(base, (int, float)):
        raise ScheduleError(
            f"{trained.checkpoint.path} does not say what keep ratio it was trained with: "
            "give one, as in `ratio` 0.7"
        )
    stages = len(trained.config.prune_at)
    keep = schedule_from_base(trained.family.schedule, float(base), stages)
    return dataclasses.replace(keep, align=recipe.align)


RATIO = ("base_rate", "keep_rate", "base_keep_rate")
"""What training code calls the base ratio."""


def _trained_ratio(trained: TrainedModel) -> Any:
    """The base ratio that the training recorded, by any of its names; alone in a list, too."""
    args = trained.checkpoint.args
    told = next((args[name] for name in RATIO if name in args), None)
    return told[0] if isinstance(told, (list, tuple)) and len(set(told)) == 1 else told


def find_builder(recipe: Recipe) -> str | None:
    """The edition of TensorRT that is to build an engine, if one is asked for.

    InputError unless it can, for this precision and on this machine.
    """
    if recipe.engine is None and recipe.edition is None:
        return None
    edition = find_edition(recipe.edition or "auto")
    recipe.typing().require_engine(edition.name)
    require_buildable(edition, BuildOptions())
    return edition.name


def choose_targets(recipe: Recipe, keep: KeepSchedule | None, edition: str | None) -> Targets:
    """Where all goes; InputError if a file cannot be written, or is one of those read."""
    onnx = Path(_default_name(recipe, keep) if recipe.output is None else recipe.output)
    require_onnx_target(onnx)
    reference = ReferenceBundle.path_beside(onnx)
    require_writable(reference)
    read = (recipe.checkpoint, recipe.images, recipe.expect, recipe.typing().calibration_data)
    data = data_beside(onnx)
    require_writable(data)
    require_kept(read, onnx, reference, data)
    engine = onnx.with_suffix(".engine") if recipe.engine is None else Path(recipe.engine)
    if engine.suffix != ".engine":
        raise InputError(
            f"{engine} does not end in .engine: name the engine to write; which TensorRT builds "
            "it, its edition says, as in tensorrt-rtx"
        )
    if edition is not None:
        for file in (engine, Sidecar.path_beside(engine)):
            require_writable(file)
    return Targets(onnx, reference, engine, edition)


def _default_name(recipe: Recipe, keep: KeepSchedule | None) -> str:
    stem, precision = name_checkpoint(Path(recipe.checkpoint)), recipe.typing().name
    if recipe.task not in (None, DEFAULT):
        stem = f"{stem}-{recipe.task}"
    typed = "" if precision == "fp32" else f"-{precision}"
    if keep is None:
        return f"{stem}-dense{typed}.onnx"
    ratios = [recipe.ratio] if recipe.ratio is not None else keep.ratios
    aligned = "" if keep.align == 1 else f"-align{keep.align}"
    return f"{stem}-{'-'.join(f'{value:g}' for value in ratios)}{aligned}{typed}.onnx"
