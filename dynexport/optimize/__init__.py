"""A lean copy of an ONNX file that somebody else exported from a token-pruning model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import onnx
import onnx_ir as ir

from dynexport.compare.tolerances import Limits, Tolerances
from dynexport.errors import ModelFileError, VerificationError
from dynexport.files import existing_file, require_kept, require_onnx_target, save
from dynexport.formats.metadata import PREFIX
from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.macs import count_macs
from dynexport.graph.opset import OLDEST
from dynexport.graph.passes import LAST, PASSES, GraphPass
from dynexport.graph.patterns import sizes_of
from dynexport.graph.rules.fixed_shapes import working_nodes
from dynexport.graph.sizes import learn_sizes
from dynexport.graph.tidy import open_up
from dynexport.optimize.foreign import (
    Comparison,
    input_problem,
    make_batches,
    make_comparison,
    read_foreign,
)
from dynexport.precision import choose_tolerances, precision_of
from dynexport.progress import OnStep, silent

ROUNDS = 4
"""How often the passes run in turn, at most."""


@dataclass(frozen=True)
class PassReport:
    """What a pass did: how often it applied, to what, and why it was left out where it was."""

    name: str
    applied: int
    what: str
    left_out: str = ""


@dataclass(frozen=True)
class Optimization:
    """What `optimize_model` made of a file.

    model, output  the file read, and the one written
    unchanged      the file written is the one read; ``reason`` says why
    nodes          before and after, those apart that hold a constant
    macs           for one image, before and after; None where a shape does not follow
    opset          before and after
    passes         those that applied or were left out, in order
    images         compared on, in all; ``source`` says which beside random ones
    error          largest difference of an output, relative to its largest value (at least 1)
    ties           images on which near-tied scores changed places, left out of ``error``
    """

    model: str
    output: str
    unchanged: bool
    reason: str
    nodes: tuple[int, int]
    macs: tuple[int, int] | None
    opset: tuple[int, int]
    passes: tuple[PassReport, ...]
    images: int
    source: str
    error: float
    ties: int
    size_bytes: int
    seconds: float


def optimize_model(
    model: str | Path,
    output: str | Path | None = None,
    *,
    images: str | Path | None = None,
    tolerance: float | None = None,
    on_step: OnStep = silent,
) -> Optimization:
    """Write a lean copy of an ONNX file, whoever exported it, whose outputs are the same.

    output     the .onnx to write; by default named after the file, in this folder
    images     folder of pictures or .npz to compare outputs on; without, synthetic ones. Random
               numbers are compared on as well
    tolerance  accepted error of outputs, relative to the largest (at least 1); by default by
               precision, 1e-4 for float32

    A pass that fails, or that changes the outputs, is left out, and that is told. A file with
    nothing to gain, or one that cannot be fed images to compare on, comes out as it is. Raises
    DynexportError's subclasses; then nothing was written.
    """
    start = perf_counter()
    path = existing_file(model, "an ONNX file")
    target = _target(path, output)
    on_step(f"read {path}")
    original = read_foreign(path)
    reason = _nothing_to_do(original)
    if reason:
        return _copy(path, target, original, reason, (), start)
    limits = choose_tolerances(precision_of(original), Limits(tolerance))
    batches = make_batches(original, None if images is None else Path(images))
    opened = original.clone()
    open_up(opened)
    learn_sizes(opened)
    on_step("run it as it is")
    compare = make_comparison(opened, batches, limits)
    on_step("make it lean")
    lean, reports = _apply_passes(opened, lambda changed: "")
    applied = _gained(reports, original, lean)
    outcome = compare(lean) if applied else Comparison(0.0, 0, 0)
    if applied and not outcome.passes(limits):
        on_step("find the pass that changes the outputs")
        lean, reports = _apply_passes(
            opened, lambda changed: _disagreement(compare(changed), limits)
        )
        applied = _gained(reports, original, lean)
        outcome = compare(lean)
    if not applied:
        failed = [report for report in reports if report.left_out]
        return _copy(path, target, original, "nothing to gain", failed, start)
    if not outcome.passes(limits):
        raise VerificationError(
            f"{path}: the lean graph's outputs differ ({outcome.error:.1e}, accepted "
            f"{limits.outputs:g}) whichever pass is left out: nothing was written"
        )
    content = to_bytes(_as_given(lean, original))
    on_step(f"write {target}")
    save(target, content)
    return Optimization(
        model=str(path),
        output=str(target),
        unchanged=False,
        reason="",
        nodes=(working_nodes(original), working_nodes(lean)),
        macs=_macs(opened, lean),
        opset=(original.opset_imports.get("", 0), lean.opset_imports.get("", 0)),
        passes=reports,
        images=outcome.images,
        source="synthetic images" if images is None else str(images),
        error=outcome.error,
        ties=outcome.ties,
        size_bytes=len(content),
        seconds=perf_counter() - start,
    )


def _target(path: Path, output: str | Path | None) -> Path:
    """The file to write; InputError if it is the one read, or cannot be written."""
    target = Path(f"{path.stem}-lean.onnx" if output is None else output)
    require_onnx_target(target)
    require_kept([path], target)
    return target


def _nothing_to_do(model: ir.Model) -> str:
    """Why a graph is left as it is; empty where there may be something to gain."""
    if any(key.startswith(PREFIX) for key in model.metadata_props):
        return "dynexport wrote it: it is lean already"
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST:
        return f"it is of opset {opset}, and the passes know {OLDEST} and later: export it anew"
    problem = input_problem(model)
    return f"{problem}, so that its outputs cannot be compared" if problem else ""


def _apply_passes(
    model: ir.Model, problem_with: Callable[[ir.Model], str]
) -> tuple[ir.Model, tuple[PassReport, ...]]:
    """A copy with every pass applied that leaves a sound graph ``problem_with`` says nothing of."""
    counts: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for passes in (*[PASSES] * ROUNDS, LAST):
        for each in passes:
            if each.name in left_out:
                continue
            try:
                changed, count = _apply(each, model)
                problem = problem_with(changed) if count else ""
            except Exception as error:  # a graph unlike those it was written for
                lines = str(error).strip().splitlines()
                problem, count = f"it failed: {lines[0] if lines else type(error).__name__}", 0
            if problem:
                left_out[each.name] = problem
            elif count:
                model, counts[each.name] = changed, counts.get(each.name, 0) + count
    reports = (
        PassReport(e.name, counts.get(e.name, 0), e.what, left_out.get(e.name, ""))
        for e in (*PASSES, *LAST)
    )
    return model, tuple(report for report in reports if report.applied or report.left_out)


def _gained(reports: Sequence[PassReport], before: ir.Model, after: ir.Model) -> bool:
    """Whether a pass applied; what is joined last may be what was joined before."""
    applied = {report.name for report in reports if report.applied}
    joined = working_nodes(before) == working_nodes(after)
    return bool(applied - {each.name for each in LAST if joined})


def _apply(each: GraphPass, model: ir.Model) -> tuple[ir.Model, int]:
    """A copy with a pass applied, and how often it did; ModelFileError if that broke the graph."""
    changed = model.clone()
    count = each.run(changed)
    if count:
        onnx.checker.check_model(ir.serde.serialize_model(changed))
        if not changed.functions:
            learn_sizes(changed)
        for before, after in zip(model.graph.outputs, changed.graph.outputs, strict=True):
            if before.name != after.name or before.dtype != after.dtype:
                raise ModelFileError(f"the output {before.name} is not as it was")
    return changed, count


def _disagreement(found: Comparison, limits: Tolerances) -> str:
    """What is wrong with a graph's answers; empty where they agree."""
    accepted = limits.outputs
    if found.passes(limits):
        return ""
    if found.failed:
        return found.failed
    if found.error <= accepted:
        return f"it changes the order of near-tied tokens on {found.ties} of {found.images} images"
    return f"it changes the outputs by {found.error:.1e}, accepted {accepted:g}"


def _as_given(lean: ir.Model, original: ir.Model) -> ir.Model:
    """The graph to write: inputs and outputs as they were, and in between no sizes that only the
    passes have names for."""
    written = lean.clone()
    ends = (*written.graph.inputs, *written.graph.outputs)
    given = (*original.graph.inputs, *original.graph.outputs)
    named = {size for value in given for size in sizes_of(value) or () if isinstance(size, str)}
    for node in written.graph:
        for value in node.outputs:
            sizes = sizes_of(value)
            if sizes is not None:
                told = [s if isinstance(s, int) or s in named else None for s in sizes]
                value.shape = ir.Shape(told)
    for value, before in zip(ends, given, strict=True):
        value.shape = before.shape
    return written


def _copy(
    path: Path,
    target: Path,
    model: ir.Model,
    reason: str,
    passes: Sequence[PassReport],
    start: float,
) -> Optimization:
    """Write the file as it is."""
    proto = onnx.load(str(path), load_external_data=False)
    stored = proto.graph.initializer
    outside = any(onnx.external_data_helper.uses_external_data(tensor) for tensor in stored)
    content = to_bytes(model) if outside else path.read_bytes()
    save(target, content)
    nodes, opset = working_nodes(model), model.opset_imports.get("", 0)
    return Optimization(
        model=str(path),
        output=str(target),
        unchanged=True,
        reason=reason,
        nodes=(nodes, nodes),
        macs=None,
        opset=(opset, opset),
        passes=tuple(passes),
        images=0,
        source="",
        error=0.0,
        ties=0,
        size_bytes=len(content),
        seconds=perf_counter() - start,
    )


def _macs(before: ir.Model, after: ir.Model) -> tuple[int, int] | None:
    """Multiply-accumulates for one image; None where a shape does not follow."""
    counted = []
    for model in (before, after):
        copy = model.clone()
        if copy.functions:
            open_up(copy)
        learn_sizes(copy)
        for node in copy.graph:
            if node.op_type in ("MatMul", "MatMulInteger", "Gemm", "Conv"):
                for value in (node.inputs[1], node.outputs[0]):
                    sizes = sizes_of(value)
                    if sizes is None or any(size is None or "*" in str(size) for size in sizes):
                        return None
        counted.append(count_macs(copy))
    return counted[0], counted[1]
