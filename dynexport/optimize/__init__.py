"""A lean copy of an ONNX file that somebody else exported from a token-pruning model."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import onnx
import onnx_ir as ir

from dynexport.compare.tolerances import Limits, Tolerances
from dynexport.errors import ModelFileError, VerificationError
from dynexport.files import existing_file, require_kept, require_onnx_target, save
from dynexport.formats.onnx_file import to_bytes
from dynexport.formats.tensors import outside
from dynexport.graph.folding import working_nodes
from dynexport.graph.macs import count_macs
from dynexport.graph.patterns import sizes_of
from dynexport.graph.sizes import learn_sizes
from dynexport.graph.tidy import open_up
from dynexport.images import ImageSize
from dynexport.optimize.foreign import Comparison, make_batches, make_comparison, read_foreign
from dynexport.optimize.passes import PassReport, apply_rules, has_gained
from dynexport.optimize.ready import Ready, make_ready, raise_to_known, settle_batch
from dynexport.precision import choose_tolerances, precision_of
from dynexport.progress import OnStep, silent


@dataclass(frozen=True)
class Optimization:
    """What `optimize_model` made of a file.

    model, output  the file read, and the one written
    unchanged      the file written is the one read; ``reason`` says why
    changes        what it needed before any pass, a sentence each: sizes fixed, opset raised
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
    changes: tuple[str, ...]
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


@dataclass(frozen=True)
class Lean:
    """A graph with every rule applied that keeps its outputs.

    ready     as it was given, with what it needed; and why it is left so, where it is
    opened    the same in the form that rules read
    graph     as it is now
    passes    what each rule did that applied, or was left out
    outcome   how far the outputs lie apart; None where nothing was changed
    """

    ready: Ready
    opened: ir.Model
    graph: ir.Model
    passes: tuple[PassReport, ...]
    outcome: Comparison | None


def optimize_model(
    model: str | Path,
    output: str | Path | None = None,
    *,
    images: str | Path | None = None,
    img_size: int | str | Sequence[int] | None = None,
    tolerance: float | None = None,
    on_step: OnStep = silent,
) -> Optimization:
    """Write a lean copy of an ONNX file, whoever exported it, whose outputs are the same.

    output     the .onnx to write; by default named after the file, in this folder
    images     folder of pictures or .npz to compare outputs on; without, synthetic ones. Random
               numbers are compared on as well
    img_size   of a file that leaves height and width open: pixels, or both, as in "224x448"
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
    with _uncollected():
        original = read_foreign(path)
        before = (working_nodes(original), original.opset_imports.get("", 0))
        limits = choose_tolerances(precision_of(original), Limits(tolerance))
        ready = make_ready(original, None if img_size is None else ImageSize.of(img_size))
        lean = _make_lean(path, ready, None if images is None else Path(images), limits, on_step)
    if lean.outcome is None:
        return _copy(path, target, before, lean, start)
    if not lean.outcome.passes(limits):
        raise VerificationError(
            f"{path}: the lean graph's outputs differ ({lean.outcome.error:.1e}, accepted "
            f"{limits.outputs:g}) whichever pass is left out: nothing was written"
        )
    macs = _macs(lean.opened, lean.graph)
    content = to_bytes(_as_given(lean.graph, lean.ready.model))
    on_step(f"write {target}")
    save(target, content)
    return Optimization(
        model=str(path),
        output=str(target),
        unchanged=False,
        reason="",
        changes=lean.ready.changes,
        nodes=(before[0], working_nodes(lean.graph)),
        macs=macs,
        opset=(before[1], lean.graph.opset_imports.get("", 0)),
        passes=lean.passes,
        images=lean.outcome.images,
        source="synthetic images" if images is None else str(images),
        error=lean.outcome.error,
        ties=lean.outcome.ties,
        size_bytes=len(content),
        seconds=perf_counter() - start,
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage is left till later: to look for it among a large graph's nodes takes a fifth of the
    time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _target(path: Path, output: str | Path | None) -> Path:
    """The file to write; InputError if it is the one read, or cannot be written."""
    target = Path(f"{path.stem}-lean.onnx" if output is None else output)
    require_onnx_target(target)
    require_kept([path], target)
    return target


def _make_lean(
    path: Path, ready: Ready, images: Path | None, limits: Tolerances, on_step: OnStep
) -> Lean:
    """Apply all rules at once; where that changes the outputs, leave out those that do."""
    if ready.reason:
        return Lean(ready, ready.model, ready.model, (), None)
    on_step("run it as it is")
    try:
        ready = settle_batch(ready)
        batches = make_batches(ready.model, images)
        ready = raise_to_known(ready, batches, limits)
        opened = ready.model.clone()
        open_up(opened)
        facts = learn_sizes(opened)
        compare, reason = make_comparison(opened, batches, limits)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}; {ready.blame}") from None
    if reason := ready.reason or reason:
        return Lean(replace(ready, reason=reason), opened, opened, (), None)
    on_step("make it lean")
    graph, passes = apply_rules(opened, facts, lambda changed: "")
    wanted = bool(ready.changes)
    gained = has_gained(passes, ready.model, graph)
    outcome = compare(graph) if gained or wanted else None
    if outcome is not None and not outcome.passes(limits):
        on_step("find the pass that changes the outputs")
        graph, passes = apply_rules(
            opened, facts, lambda changed: _disagreement(compare(changed), limits)
        )
        gained = has_gained(passes, ready.model, graph)
        outcome = compare(graph) if gained or wanted else None
    if not gained:
        passes = tuple(report for report in passes if report.left_out)
    return Lean(replace(ready, reason="nothing to gain"), opened, graph, passes, outcome)


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
    """The graph to write, which is the one given: inputs and outputs as they were, and in between
    no sizes that only the passes have names for."""
    ends = (*lean.graph.inputs, *lean.graph.outputs)
    given = (*original.graph.inputs, *original.graph.outputs)
    named = {size for value in given for size in sizes_of(value) or () if isinstance(size, str)}
    for node in lean.graph:
        for value in node.outputs:
            sizes = sizes_of(value)
            if sizes is not None:
                known = [s if isinstance(s, int) or s in named else None for s in sizes]
                value.shape = ir.Shape(known)
    for value, before in zip(ends, given, strict=True):
        value.shape = before.shape
    return lean


def _copy(
    path: Path, target: Path, before: tuple[int, int], lean: Lean, start: float
) -> Optimization:
    """Write the file as it is, of so many nodes and that opset."""
    apart = outside(onnx.load(str(path), load_external_data=False))
    content = to_bytes(read_foreign(path)) if apart else path.read_bytes()
    save(target, content)
    return Optimization(
        model=str(path),
        output=str(target),
        unchanged=True,
        reason=lean.ready.reason,
        changes=(),
        nodes=(before[0], before[0]),
        macs=None,
        opset=(before[1], before[1]),
        passes=lean.passes,
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
        sized = model
        if model.functions:  # else the rules left every size known that follows
            sized = model.clone()
            open_up(sized)
            learn_sizes(sized)
        for node in sized.graph:
            if node.op_type in ("MatMul", "MatMulInteger", "Gemm", "Conv"):
                for value in (node.inputs[1], node.outputs[0]):
                    sizes = sizes_of(value)
                    if sizes is None or any(size is None or "*" in str(size) for size in sizes):
                        return None
        counted.append(count_macs(sized))
    return counted[0], counted[1]
