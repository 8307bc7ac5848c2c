"""What TensorRT refuses, slows down or rounds in a graph, one function a rule.

Each rule was tried on TensorRT-RTX 1.7.1, which parses and builds without a GPU; the tests repeat
that. What is said of half precision was read in the kernels it generates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from dynexport.check.view import (
    HALF,
    RANDOM,
    Finding,
    View,
    constant,
    folded,
    is_fixed,
    label,
    maker,
    setting,
    size_at,
    through,
)
from dynexport.runtimes.tensorrt.limits import TENSORRT_TOP_K

ALIASES = ("Cast", "Identity")


def top_k(view: View) -> Iterator[Finding]:
    """A K over the limit or the rows there are, or one that is no constant."""
    for node in view.all("TopK"):
        asked, rows = _asked(view, node), _rows(node)
        varies = len(node.inputs) > 1 and node.inputs[1] in view.fed
        if varies:
            what = "its K is no constant: it follows from what is fed"
            mend = "make K a constant: one number for one keep ratio"
        elif asked is not None and asked > TENSORRT_TOP_K:
            what = f"its K is {asked}, and TensorRT's limit is {TENSORRT_TOP_K}"
            mend = "ask for fewer rows: keep less of the image, or take a smaller one"
        elif asked is not None and rows is not None and asked > rows:
            what = f"its K is {asked}, and there are {rows} rows"
            mend = "ask for at most the rows there are"
        else:
            continue
        yield Finding("top-k", "refused", label(node), what, mend)


def full_sort(view: View) -> Iterator[Finding]:
    """An argsort of which only the front is read: a top-k in disguise."""
    for node in view.all("TopK"):
        asked, rows = _asked(view, node), _rows(node)
        if asked is None or asked != rows:
            continue
        read = _rows_read(node)
        if read is None or read >= rows:
            continue
        mend = f"ask for K = {read}"
        scores = through(node.inputs[0], *ALIASES, "Slice", "Gather", "Squeeze", "Reshape")
        if maker(scores, "LogSoftmax", "Softmax"):
            mend += "; of two classes, rank the difference of the logits instead of a softmax"
        what = f"it sorts all {rows} rows, and the first {read} are read"
        yield Finding("full-sort", "slow", label(node), what, mend)


def _asked(view: View, node: ir.Node) -> int | None:
    """K of a TopK, where it is a constant."""
    written = setting(node, "k", 1)
    if written is None and len(node.inputs) > 1:
        array = folded(node.inputs[1], view.model.opset_imports.get("", 1))
        written = None if array is None else [int(number) for number in array.flat]
    return written[0] if written else None


def _rows(node: ir.Node) -> int | None:
    return size_at(node.inputs[0], node.attributes.get_int("axis", -1))


def _rows_read(node: ir.Node) -> int | None:
    """How many rows of a TopK's answer are read; None where that is not told by Slices."""
    axis, ends = node.attributes.get_int("axis", -1), []
    waiting = list(node.outputs)
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return None
        for use in value.uses():
            if use.node.op_type in ALIASES:
                waiting.extend(use.node.outputs)
            elif use.node.op_type == "Slice" and use.idx == 0:
                end = _slice_end(use.node, axis)
                if end is None:
                    return None
                ends.append(end)
            else:
                return None
    return max(ends, default=None)


def _slice_end(node: ir.Node, axis: int) -> int | None:
    """Where a Slice along ``axis`` alone ends; None for any other."""
    if len(node.inputs) > 4:
        steps = setting(node, "steps", 4)
        if steps is None or any(step < 1 for step in steps):
            return None
    ends, axes = setting(node, "ends", 2), setting(node, "axes", 3)
    rank = len(node.inputs[0].shape) if node.inputs[0] and node.inputs[0].shape else 0
    if not ends or not axes or len(ends) != 1 or not rank or (axes[0] - axis) % rank:
        return None
    return ends[0] if ends[0] > 0 else None


def layer_norm(view: View) -> Iterator[Finding]:
    """Normalisation spelled out: mean, difference, square, mean, root, quotient.

    In half precision TensorRT rounds the mean, the squares and the variance to it, while the
    LayerNormalization operator computes all of them in float32.
    """
    typed = any(value.dtype in HALF for value in view.model.graph.initializers.values())
    for root in view.all("Sqrt"):
        found = _normalisation(view, root)
        if found is None:
            continue
        first, operator = found
        inside = first.inputs[0]
        if typed and inside is not None and inside.dtype == ir.DataType.FLOAT:
            continue  # kept in float32 on purpose
        what = (
            f"{operator} spelled out, from here to {label(root)}: in half precision its squares "
            "overflow from 256 on"
        )
        yield Finding("layer-norm", "inexact", label(first), what, _normalisation_mend(view, first))


def _normalisation(view: View, root: ir.Node) -> tuple[ir.Node, str] | None:
    """The first node of the pattern that ends in the square root, and the operator it spells."""
    inside = root.inputs[0]
    if (added := maker(inside, "Add")) is not None:
        varying = [value for value in added.inputs if view.varies(value)]
        inside = varying[0] if len(varying) == 1 else None
    mean = maker(inside, "ReduceMean")
    square = maker(mean.inputs[0], "Mul", "Pow") if mean is not None else None
    if mean is None or square is None:
        return None
    base, other = square.inputs[:2]
    exponent = constant(other)
    if square.op_type == "Mul" and base is not other:
        return None
    if square.op_type == "Pow" and (exponent is None or np.any(exponent != 2)):
        return None
    difference = maker(through(base, "Cast"), "Sub")
    centre = maker(difference.inputs[1], "ReduceMean") if difference is not None else None
    if difference is not None and centre is not None and centre.inputs[0] is difference.inputs[0]:
        return centre, "LayerNormalization"
    return square, "RMSNormalization"


def _normalisation_mend(view: View, first: ir.Node) -> str:
    if first.op_type != "ReduceMean":
        return "export with opset 23 or later, or keep these nodes in float32"
    axes = setting(first, "axes", 1)
    rank = len(first.inputs[0].shape) if first.inputs[0] and first.inputs[0].shape else 0
    if axes is not None and rank and rank - 1 not in [axis % rank for axis in axes]:
        return "bring the channels last and normalise them there, by LayerNormalization"
    opset = view.model.opset_imports.get("", 0)
    export = "export nn.LayerNorm itself" if opset >= 17 else "export with opset 17 or later"
    return f"{export}, so that LayerNormalization is written"


def expanded_index(view: View) -> Iterator[Finding]:
    """Rows moved element by element: torch.gather and scatter with an expanded index."""
    for node in view.all("GatherElements", "ScatterElements", "Scatter"):
        index = through(node.inputs[1], *ALIASES)
        if maker(index, "Expand", "Tile") is None or not view.varies(index):
            continue
        verb, rows = ("gathers", "Gather") if node.op_type[0] == "G" else ("scatters", "Scatter")
        what = f"it {verb} rows with an index for each of their elements"
        mend = f"use one index a row: {rows}ND" + (" with batch_dims=1" if rows == "Gather" else "")
        yield Finding("expanded-index", "slow", label(node), what, mend)


def scatter_reduction(view: View) -> Iterator[Finding]:
    """Scatters that add or multiply, as token merging does."""
    for node in view.all("ScatterElements", "ScatterND"):
        kind = node.attributes.get_string("reduction", "none")
        if kind != "none":
            what = f"it scatters with reduction {kind!r}, which few versions take"
            mend = "merge rows by a product with a one-hot matrix"
            yield Finding("scatter-reduction", "risky", label(node), what, mend)


def data_dependent(view: View) -> Iterator[Finding]:
    """Shapes or control flow that follow the data: no CUDA graph can be captured of them."""
    for node in view.all("NonZero", "Compress", "Unique", "NonMaxSuppression"):
        if any(value in view.fed for value in node.inputs if value is not None):
            what = "its output has another shape for each input, which no CUDA graph can hold"
            mend = "keep a constant number of rows: TopK and a gather instead of a mask"
            yield Finding("data-dependent", "slow", label(node), what, mend)
    for node in view.all("If", "Loop", "Scan"):
        if node.op_type != "If" or view.varies(node.inputs[0]):
            what = "it decides at run time what runs, which no CUDA graph can hold"
            mend = "trace the model for one path, with loops unrolled"
            yield Finding("data-dependent", "slow", label(node), what, mend)


def random_numbers(view: View) -> Iterator[Finding]:
    """Noise of a training form: Gumbel masks, dropout."""
    for node in view.nodes:
        training = node.op_type == "Dropout" and len(node.inputs) > 2 and constant(node.inputs[2])
        if node.op_type in RANDOM or training:
            what = "it draws random numbers: this is a model as it is trained"
            mend = "export what runs at inference: model.eval(), and no Gumbel noise"
            yield Finding("random", "inexact", label(node), what, mend)


def open_dimensions(view: View) -> Iterator[Finding]:
    """Sizes left open besides the batch: `dynexport build` makes profiles of batch sizes alone."""
    for value in view.model.graph.inputs:
        if value.is_initializer() or is_fixed(value):
            continue
        sizes = list(value.shape)[1:] if value.shape is not None else None
        if sizes is None:
            what = "this input has no shape"
        elif open_ones := [n for n, size in enumerate(sizes, 1) if not isinstance(size, int)]:
            what = f"dimension {', '.join(map(str, open_ones))} of this input has no fixed size"
        else:
            continue
        mend = "fix it when exporting, or with onnx.tools.update_model_dims; the first may stay"
        yield Finding("open-dimension", "refused", str(value.name), what, mend)
