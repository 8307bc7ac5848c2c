"""Images for tiny models in OpenVINO."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made.onnx_models import model_of, node
from made.tiny import Tiny

RATIOS = (0.7, 0.5, 0.3)


def images_for(tiny: Tiny, batch: int) -> NDArray[np.float32]:
    size = tiny.metadata.preprocessing.img_size
    return np.random.default_rng(batch).normal(size=(batch, 3, *size)).astype(np.float32)


def cast(source: int, target: int, *shape: int | str) -> bytes:
    """A graph that turns ``images`` of one type into ``y`` of another."""
    cast_node = node("Cast", "images", "y", to=target)
    model = model_of([cast_node], [("images", shape, source)], [("y", shape, target)])
    content: bytes = model.SerializeToString()
    return content
