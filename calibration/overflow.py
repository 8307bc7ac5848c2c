"""What of a float32 graph does not fit half precision, found by running it on images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration.running import static_batch
from dynexport.errors import ImageError, InputError, ModelFileError
from dynexport.formats.onnx_file import as_source
from dynexport.graph.constants import add_constant, content_of
from dynexport.graph.edits import named_node, put_behind
from dynexport.graph.half import Kind, overflowing_constants, require_float32
from dynexport.graph.half_places import SINGLE
from dynexport.images import fill_batch
from dynexport.runtimes.onnxruntime import OnnxRuntimeRunner

LARGEST: Mapping[Kind, float] = MappingProxyType(
    {"fp16": 65504.0, "bf16": float.fromhex("0x1.fep127")}
)
"""The largest finite value."""

HEADROOM = 2.0
"""What comes within this factor of the largest finite value counts as too large, as images met
later are not those of the calibration: on the trained MNIST model the largest magnitude of a value
differs by a factor of up to 1.94 between two sets of eight digits. What is kept in float32 in vain
costs its Casts alone."""

PROBES: Mapping[str, str] = MappingProxyType(
    {"max": "ReduceMax", "min": "ReduceMin", "squares": "ReduceSumSquare"}
)
"""What is asked of every value: the name's ending, and the operator."""


def find_overflow(
    model: ir.Model,
    batches: Iterable[NDArray[np.float32]],
    kind: Kind,
    *,
    half_io: bool = False,
) -> dict[str, float]:
    """Run a float32 graph on batches (B, C, H, W) in ONNX Runtime, and find what does not fit.

    Returns, in the graph's order, the names of the nodes that compute a value too large for
    ``kind`` (`HEADROOM`), or compute with one, be it a constant, and the largest finite magnitude
    each has to do with. Given to `to_half` as ``single``, no such value ever stands in half: what
    makes it and all that read it work in float32, and what they make of it goes on in half as soon
    as it fits. Infinities of constants (a mask), and what follows from them, do not count.

    A probe copy of the graph gives three numbers of each value, so memory does not grow with the
    number of images. InputError if with ``half_io`` an input or output does not fit; ImageError if
    there are no images, or one holds NaN or infinity; ModelFileError if the graph gives such in
    float32, or is in half precision already.
    """
    require_float32(model)
    limit = LARGEST[kind] / HEADROOM
    seen = _largest_magnitudes(model, batches)
    found = {name: magnitude for name, magnitude in seen.items() if magnitude > limit}
    for value in (*model.graph.inputs, *model.graph.outputs) if half_io else ():
        if value.name in found:
            raise InputError(
                f"{value.name} reaches {found[value.name]:.3g}, and {kind} holds "
                f"{LARGEST[kind]:.3g} at most: leave inputs and outputs in float32"
            )
    for name in overflowing_constants(model, kind):
        found[name] = _largest_finite(model.graph.initializers[name])
    return _nodes_around(model, found)


def _largest_magnitudes(
    model: ir.Model, batches: Iterable[NDArray[np.float32]]
) -> dict[str, float]:
    """By the name of every value, the largest finite magnitude on any image."""
    largest = {str(value.name): 0.0 for value in _float_values(model)}
    count = 0
    for answers in _run(_with_probes(model), batches):
        count += 1
        for name in largest:
            high, low, squares = (float(answers[f"{name}/{end}"]) for end in PROBES)
            if np.isnan(squares) or np.isinf([high, low]).any():
                raise _broken(model, name, "NaN" if np.isnan(squares) else "infinity")
            largest[name] = max(largest[name], abs(high), abs(low))
    if not count:
        raise ImageError("there are no images to look for overflow on: give at least one")
    return largest


def _float_values(model: ir.Model) -> Iterator[ir.Value]:
    """Inputs, and what nodes compute, in float32; in the graph's order."""
    computed = (value for node in model.graph for value in node.outputs)
    for value in (*model.graph.inputs, *computed):
        if value.dtype == SINGLE and (value.uses() or value.is_graph_output()):
            yield value


def _downstream_of_infinities(model: ir.Model) -> set[ir.Value]:
    """Values that an infinite constant may have made infinite."""
    found: set[ir.Value] = {
        constant
        for constant in model.graph.initializers.values()
        if constant.dtype == SINGLE and np.isinf(content_of(constant)).any()
    }
    for node in model.graph:
        if any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _with_probes(model: ir.Model) -> ir.Model:
    """A copy whose outputs are, of every float32 value x, ``x/max`` and ``x/min``, of what is
    finite where infinity is explained, and ``x/squares``, the sum of its squares, which is NaN if x
    holds a NaN and else never: a largest value need not be.

    Each probe stands right behind the value it looks at, so that no value is kept for it.
    """
    probe = model.clone()
    masked, values = _downstream_of_infinities(probe), list(_float_values(probe))
    probe.graph.outputs.clear()
    zero = add_constant(probe, "overflow/zero", np.zeros((), np.float32))
    for value in values:
        nodes = _probe_nodes(value, zero if value in masked else None)
        put_behind(probe, value, nodes)
        probe.graph.outputs.extend(node.outputs[0] for node in nodes[-len(PROBES) :])
    return probe


def _probe_nodes(value: ir.Value, zero: ir.Value | None) -> list[ir.Node]:
    """What looks at a value; with ``zero``, which is put in the place of infinities."""
    nodes, finite = [], value
    if zero is not None:
        nodes.append(named_node("IsInf", [value], name=f"{value.name}/infinite"))
        inputs = [nodes[0].outputs[0], zero, value]
        nodes.append(named_node("Where", inputs, name=f"{value.name}/finite"))
        finite = nodes[1].outputs[0]
    for (end, operator), source in zip(PROBES.items(), (finite, finite, value), strict=True):
        name, whole = f"{value.name}/{end}", {"keepdims": 0}
        nodes.append(named_node(operator, [source], whole, name=name, dtype=SINGLE))
    return nodes


def _run(
    probe: ir.Model, batches: Iterable[NDArray[np.float32]]
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """The outputs of each batch; one smaller than a static graph takes is filled up with its own
    images."""
    size, before = static_batch(probe), 0
    with as_source(probe) as source, OnnxRuntimeRunner(source, in_order=True) as runner:
        for images in batches:
            count = len(images)
            if not np.isfinite(images).all():
                raise ImageError(
                    f"one of the images {before} to {before + count - 1}, counted from 0, holds "
                    "NaN or infinity: remove it, or prepare it again"
                )
            before += count
            if size is not None and count < size:
                images = fill_batch(images, size)
            yield runner.run(images)


def _broken(model: ir.Model, name: str, what: str) -> ModelFileError:
    producers = [node for node in model.graph if name in [value.name for value in node.outputs]]
    where = f"node {producers[0].name} ({producers[0].op_type})" if producers else f"input {name}"
    return ModelFileError(
        f"{where} gives {what} in float32 already: the model is at fault on these images, not its "
        "precision; look at its checkpoint, and at how the images are prepared"
    )


def _nodes_around(model: ir.Model, found: Mapping[str, float]) -> dict[str, float]:
    """Nodes that compute one of these values or with one, and the largest magnitude of those."""
    nodes = {}
    for node in model.graph:
        names = [str(value.name) for value in (*node.inputs, *node.outputs) if value is not None]
        magnitudes = [found[name] for name in names if name in found]
        if magnitudes:
            nodes[str(node.name)] = max(magnitudes)
    return nodes


def _largest_finite(constant: ir.Value) -> float:
    array = content_of(constant)
    return float(np.abs(array[np.isfinite(array)]).max())
