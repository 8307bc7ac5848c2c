"""What a foreign graph needs before rules look at it: sizes, a batch that is true, an opset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.compare.tolerances import Tolerances
from dynexport.errors import InputError, ModelFileError
from dynexport.graph.inputs import fed_input, reason_not_to_compare
from dynexport.graph.opset import OLDEST
from dynexport.graph.patterns import constant, nodes_of, sizes_of
from dynexport.graph.rules.negative_perm import count_from_front
from dynexport.graph.upgrade import upgrade_opset
from dynexport.images import ImageSize
from dynexport.optimize.foreign import Answer, Session, make_comparison, session_of

TRIED = (1, 3)
"""Batches that a graph with an open batch is to run at."""

TRACED = (*TRIED, 2, 4, 8, 16, 32, 64)
"""Batches that people trace models with, in the order they are tried."""

MIXED = 0.25
"""An image's answers depend on what is fed beside it where they move by this part of the way to
another image's. Rounding, also that of 8 bits, moves them by a fraction of it."""


@dataclass(frozen=True)
class Ready:
    """A graph that images can be fed to, of an opset that the rules know.

    changes  what was done to it for that, a sentence each
    blame    whose fault it is, and what to do, where it gives no answers
    reason   why nothing can be done to it; empty where it can
    """

    model: ir.Model
    changes: tuple[str, ...]
    blame: str
    reason: str = ""


def make_ready(model: ir.Model, img_size: ImageSize | None) -> Ready:
    """Mend what ONNX does not allow, and fix the sizes left open besides the batch.

    The model given is changed. InputError if it does not take images of ``img_size``.
    """
    changes = []
    if mended := count_from_front(model):
        changes.append(
            f"axes counted from the end, which ONNX does not allow, written as it has them in "
            f"{mended} Transpose"
        )
    if told := _fix_sizes(model, img_size):
        changes.append(told)
    blame = who_wrote(model)
    if img_size is not None:
        blame = f"{img_size} may be no size it can be run at: give the one it was exported at"
    return Ready(model, tuple(changes), blame, reason_not_to_compare(model))


def _fix_sizes(model: ir.Model, img_size: ImageSize | None) -> str:
    """Number the sizes of images left open; what was fixed, in words."""
    fed = fed_input(model)
    sizes = sizes_of(fed)
    if fed is None or sizes is None or len(sizes) != 4:
        return ""
    asked = [sizes[0], _channels(model), *(img_size or (None, None))]
    fixed = [
        size if isinstance(size, int) or place == 0 else asked[place] or size
        for place, size in enumerate(sizes)
    ]
    if img_size is not None and fixed[2:] != [*img_size]:
        raise InputError(
            f"the input {fed.name} is of {fixed[2]}x{fixed[3]} pixels, not {img_size}: "
            "leave out `img_size`, which is for files that leave it open"
        )
    fed.shape = ir.Shape(fixed)
    if fixed == sizes or not all(isinstance(size, int) for size in fixed[1:]):
        return ""
    return f"images of {' x '.join(map(str, fixed[1:]))}, which it left open, fixed"


def _channels(model: ir.Model) -> int | None:
    """What the first convolution takes."""
    for node in nodes_of(model, "Conv"):
        weight = constant(node.inputs[1])
        if weight is not None:
            return int(weight.shape[1]) * (node.attributes.get_int("group", 1) or 1)
    return None


def settle_batch(ready: Ready) -> Ready:
    """A graph whose batch is open in name only, with the batch it was traced with.

    It is asked for its answers at several; ModelFileError if it gives none at any.
    """
    fed = fed_input(ready.model)
    sizes = sizes_of(fed)
    if fed is None or sizes is None or isinstance(sizes[0], int):
        return ready
    shape = [int(size) for size in sizes[1:] if isinstance(size, int)]
    images = np.random.default_rng(1).normal(0, 1, (max(TRACED), *shape)).astype(np.float32)
    outputs = ready.model.graph.outputs
    followed = [str(value.name) for value in outputs if _first(value) == sizes[0] is not None]
    with session_of(ready.model, as_written=True) as run:
        first, three = (_answers(run, images[:size], followed) for size in TRIED)
        if first and three and not _are_mixed(first, three, _answers(run, images[2:3], followed)):
            return ready
        batch = next((size for size in TRACED if _answers(run, images[:size], followed)), 1)
        answers = run([images[:batch]])[0]  # raises what is the matter where none works
    found = f"it runs there and not at {' or '.join(str(size) for size in TRIED if size != batch)}"
    if first and three:
        found = "beside others an image has other answers than alone"
    fed.shape = ir.Shape([batch, *shape])
    for value in outputs:
        if not isinstance(_first(value), int):
            value.shape = ir.Shape([len(answers[str(value.name)]), *(sizes_of(value) or [])[1:]])
    change = (
        f"the batch, open in name only, declared as {batch}: {found}; for others export it "
        "again, with no number made of x.shape[0] in the model"
    )
    return replace(ready, changes=(*ready.changes, change))


def _first(value: ir.Value) -> int | str | None:
    """The first size of a value; 0 where it has none."""
    return (sizes_of(value) or [0])[0]


def _answers(run: Session, images: NDArray[np.float32], followed: Sequence[str]) -> Answer:
    """What a graph gives, by name; nothing where it cannot, or not for as many images."""
    try:
        answer = run([images])[0]
    except ModelFileError:
        return {}
    return answer if all(len(answer[name]) == len(images) for name in followed) else {}


def _are_mixed(first: Answer, three: Answer, third: Answer) -> bool:
    """Whether the third of three images has other answers than it has alone.

    How far two images' answers lie apart is the measure.
    """
    for name, alone in third.items():
        if alone.dtype.kind != "f" or len(three[name]) != 3:
            continue
        beside, other = three[name][2].astype(float), first[name][0].astype(float)
        apart = np.abs(alone[0] - other).max(initial=0.0)
        if np.abs(alone[0] - beside).max(initial=0.0) > MIXED * apart > 0:
            return True
    return False


def raise_to_known(
    ready: Ready, batches: Sequence[NDArray[np.float32]], limits: Tolerances
) -> Ready:
    """A graph of an opset that the rules know, which answers as before."""
    model, opset = ready.model, ready.model.opset_imports.get("", 0)
    if opset >= OLDEST:
        return ready
    known = f"it is of opset {opset}, the rules know {OLDEST} and later, and ONNX's converter"
    try:
        raised = upgrade_opset(model)
    except ModelFileError as error:
        reason = f"{known} does not bring it there ({error}): export it with opset 17 or later"
        return replace(ready, reason=reason)
    compare, reason = make_comparison(model, batches, limits)
    if not reason and not (outcome := compare(raised)).passes(limits):
        found = outcome.failed or f"by {outcome.error:.1e}"
        reason = f"{known} changes its outputs ({found}): export it with opset 17 or later"
    if reason:
        return replace(ready, reason=reason)
    change = f"opset {opset} raised to {OLDEST} by ONNX's converter"
    return replace(ready, model=raised, changes=(*ready.changes, change))


def who_wrote(model: ir.Model) -> str:
    """Which exporter wrote what no runtime takes, and what to do."""
    told = {key for node in model.graph for key in node.metadata_props}
    if model.producer_name != "pytorch":
        return f"{model.producer_name or 'its exporter'} wrote it so: export it again"
    if any(key.startswith("pkg.torch") for key in told):
        return "PyTorch's dynamo exporter wrote it so: export it with a later PyTorch"
    return (
        "PyTorch's TorchScript exporter wrote it so, and its dynamo exporter does not: export it "
        "again with torch.onnx.export(..., dynamo=True)"
    )
