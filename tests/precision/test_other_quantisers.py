"""Files given to the quantiser that ONNX Runtime brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from dynexport.compare.selection import overlap_of
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.selection import add_kept_outputs
from dynexport.images import synthetic_images
from dynexport.runtimes import open_runner

RELEASED = Path(__file__).parents[1] / "made" / "release_0_1_0" / "tiny.onnx"
"""A model of the same kind, written when a score of 1e30 kept the class token in front."""

SIZE = 3
"""Of a batch."""

Answers = list[dict[str, np.ndarray]]


class Reader(CalibrationDataReader):
    """Batches of images, as ONNX Runtime takes them."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def with_kept_outputs(path: Path | str, folder: Path) -> Path:
    model = read_model(path)
    add_kept_outputs(model, read_metadata(path))
    copy = folder / "model.onnx"
    copy.write_bytes(to_bytes(model))
    return copy


def quantised(path: Path, batches: list[np.ndarray]) -> Path:
    """int8 by ONNX Runtime's own steps and options, symmetric as TensorRT wants it."""
    prepared, int8 = path.with_stem("prepared"), path.with_stem("int8")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    options = {"ActivationSymmetric": True}
    quantize_static(
        *(prepared, int8, Reader(batches)),
        activation_type=QuantType.QInt8,
        extra_options=options,
    )
    return int8


def run(path: Path, batches: list[np.ndarray]) -> dict[str, np.ndarray]:
    with open_runner("onnxruntime", str(path)) as runner:
        parts = [runner.run(images) for images in batches]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def overlaps(path: Path | str, folder: Path) -> list[float]:
    """Per stage the share of tokens that a file goes on keeping once it is quantised."""
    steps = read_metadata(path).preprocessing
    images = steps.normalise(synthetic_images(16 * SIZE, steps.img_size))
    batches = np.split(images, 16)
    model = with_kept_outputs(path, folder)
    before, after = (run(file, batches[8:]) for file in (model, quantised(model, batches[:8])))
    return [overlap_of(before[name], after[name]) for name in before if name != "logits"]


@pytest.mark.parametrize("target", ["any", "tensorrt"])
def test_a_file_quantised_by_onnx_runtime_keeps_its_tokens(
    tiny_conversion: Conversion, tiny_checkpoint: Path, tmp_path: Path, target: str
) -> None:
    """The class token's place in front takes no step from the scores of the others."""
    file = tiny_conversion.onnx
    if target == "tensorrt":
        file = tmp_path / "tensorrt.onnx"
        convert(Recipe(tiny_checkpoint, ratio=0.7, batch="1:3:5", target=target, output=file))
    shares = overlaps(file, tmp_path)
    assert min(shares) > 0.9, shares


def test_a_score_of_1e30_left_no_step_to_the_others(tmp_path: Path) -> None:
    """What this file found: it tells the two apart."""
    shares = overlaps(RELEASED, tmp_path)
    assert min(shares) < 0.7, shares
