"""From a checkpoint to a verified ONNX file, its reference bundle, and an engine where asked.

`recipe` says what is to be made, `inputs` reads and checks what it is made from, and `steps` holds
what is more than one call of what follows here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynexport.compare.expected import Fit
from dynexport.conversion.inputs import (
    TrainedModel,
    find_builder,
    open_checkpoint,
    read_inputs,
    read_pictures,
)
from dynexport.conversion.recipe import Recipe, as_recipe
from dynexport.conversion.steps import (
    Clock,
    check_expected,
    describe_export,
    give_warnings,
    type_export,
    write_verified,
)
from dynexport.engine import EngineBuild, build_engine
from dynexport.formats.metadata import Metadata
from dynexport.precision import PrecisionReport
from dynexport.progress import OnProgress, OnStep, silent
from dynexport.pytorch import require_convert_extras
from dynexport.verify import Verification

if TYPE_CHECKING:
    from dynexport.models import Assumption
    from dynexport.pytorch.rewrite import Proof

__all__ = ["Conversion", "Recipe", "TrainedModel", "convert", "open_checkpoint"]


@dataclass(frozen=True)
class Conversion:
    """What `convert` made.

    onnx, reference    the files
    proof              inference form against training form, in PyTorch
    verification       ONNX against PyTorch
    precision          what was done to type it
    warnings           what else the checkpoint holds, and what a runtime is known to refuse
    expected           how it fits what the user's own model answered, where that was told
    assumed            what of the model nothing told, and what says otherwise
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
    assumed: tuple[Assumption, ...]
    seconds: dict[str, float]
    expected: Fit | None = None


def convert(
    recipe: Recipe | str | Path,
    ratio: float | None = None,
    *,
    on_step: OnStep = silent,
    on_warning: OnStep = silent,
    on_progress: OnProgress = lambda phase, done, steps: None,
) -> Conversion:
    """Turn a checkpoint into a verified ONNX file and its reference bundle.

    recipe  what is converted, and to what; a path is a checkpoint, all else as it comes
    ratio   keep ratio, in place of the recipe's

    ``on_step`` is told of each step, ``on_warning`` of what a runtime will refuse, ``on_progress``
    of how far calibration is, and of an engine's phases. Raises DynexportError's subclasses; then
    nothing was written, but for the ONNX file and its bundle where only the engine cannot be built.
    """
    recipe = as_recipe(recipe, ratio)
    require_convert_extras(recipe.checkpoint)
    from dynexport.pytorch.export import export_onnx, record_reference
    from dynexport.pytorch.model import describe_original
    from dynexport.pytorch.rewrite import prove, rewrite

    clock, edition = Clock(on_step), find_builder(recipe)
    with clock("read the checkpoint"):
        trained, keep, targets, steps, images = inputs = read_inputs(recipe, edition)
    with clock("rewrite masks to top-k gathers"):
        inference = rewrite(trained.model, keep)
        pictures = read_pictures(recipe, steps)
    with clock("prove it against the training form"):
        proof = prove(trained.model, inference, keep, steps.to_input(pictures[:2]))
    expected = check_expected(recipe, inputs, inference, proof.outputs, clock)
    with clock("record PyTorch's answers"):
        spec = describe_export(recipe, trained, keep, proof.outputs)
        warnings = give_warnings(recipe, trained, spec, on_warning)
        bundle = record_reference(inference, spec, pictures)
    with clock("export ONNX"):
        exported = export_onnx(inference, spec, emit_kept=recipe.emit_kept, opset=recipe.opset)
    report, engine = PrecisionReport("fp32"), None
    if recipe.typing().name != report.name:
        with clock(f"convert to {recipe.typing().name}"):
            given = steps.to_input(pictures)
            exported, report = type_export(exported, recipe, images, given, on_progress)
    with clock("verify ONNX against PyTorch"):
        original = describe_original(inference, spec)
        size, verification = write_verified(exported, bundle, targets, original)
    if edition is not None:
        with clock(f"build the engine with {edition}"):
            engine = build_engine(
                targets.onnx, edition=edition, output=targets.engine, on_progress=on_progress
            )
    made = (str(targets.onnx), str(targets.reference), size, exported.metadata)
    found = (proof, verification, report, warnings)
    return Conversion(*made, *found, engine, trained.assumed, clock.seconds, expected)
