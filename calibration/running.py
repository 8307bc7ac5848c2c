"""Running a graph in ONNX Runtime on calibration images, and what its values hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration import Observation
from dynexport.formats.metadata import Batch, Metadata
from dynexport.graph.probe import with_outputs
from dynexport.images import fill_batch
from dynexport.runtimes import open_runner

Batches = Iterable[NDArray[np.float32]]


def observe(model: ir.Model, names: Collection[str], batches: Batches) -> dict[str, Observation]:
    """What each of these values holds on the images; a batch at a time, so memory is bounded."""
    seen = {name: Observation(name) for name in names}
    for answers in run_batches(with_outputs(model, names), batches):
        for name, observation in seen.items():
            observation.add(answers[name])
    return seen


def run_batches(model: ir.Model, batches: Batches) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Outputs by name for each batch, whose size may be less than a static graph takes."""
    size = static_batch(model)
    with open_runner("onnxruntime", model) as runner:
        for images in batches:
            count = len(images)
            if size is not None and count < size:
                images = fill_batch(images, size)
            answers = runner.run(images)
            yield {name: values[:count] for name, values in answers.items()}


def batch_size(metadata: Metadata) -> int:
    """Images at once: what the graph is made for."""
    return Batch.parse(metadata.batch).optimal


def static_batch(model: ir.Model) -> int | None:
    """The only batch size a graph takes; None where it takes any."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    return shape[0] if isinstance(shape[0], int) else None
