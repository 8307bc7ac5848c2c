"""Files of other opsets than usual, and the version of the file format they are stamped with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from made.small_graphs import apply, in_memory, operators, small_graph
from made.tiny import convert_tiny

from dynexport.conversion import Recipe, convert
from dynexport.errors import DynexportError
from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.older_opset import lower_opset
from dynexport.images import synthetic_images
from dynexport.precision import Precision

pytestmark = pytest.mark.slow

FORMAT = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""What the release of ONNX that brought an opset wrote (onnx.helper.VERSION_TABLE)."""


def stamped(path: Path | str) -> tuple[int, int]:
    """Opset and version of the file format, of a file that is sound by ONNX's own check."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (opset,) = {entry.version for entry in model.opset_import if not entry.domain}
    assert all(entry.version == opset for f in model.functions for entry in f.opset_import)
    return opset, model.ir_version


@pytest.mark.parametrize("opset", [17, 19, 20, 23])
def test_a_file_says_no_later_version_than_it_needs(
    tiny_checkpoint: Path, tmp_path: Path, opset: int
) -> None:
    """It is verified as it is written."""
    output = tmp_path / "model.onnx"
    convert(Recipe(tiny_checkpoint, ratio=0.7, batch="1:3:5", opset=opset, output=output))
    assert stamped(output) == (opset, FORMAT[opset])


@pytest.mark.parametrize("family", ["swin", "convnext", "lvvit"])
def test_every_family_goes_back_to_opset_17(tmp_path: Path, family: str) -> None:
    convert_tiny(tmp_path, family, (0.7, 0.5, 0.3), batch="1:2:3", opset=17)


@pytest.mark.parametrize(
    ("precision", "opset"), [("fp16", 17), ("int8-fp16", 17), ("int8-dynamic", 20)]
)
def test_precisions_too(tiny_checkpoint: Path, tmp_path: Path, precision: str, opset: int) -> None:
    images, output = tmp_path / "images.npz", tmp_path / "model.onnx"
    np.savez(images, images=synthetic_images(16, 28))
    how = Precision(precision, calibration_data=images, methods=("min-max",))
    convert(Recipe(tiny_checkpoint, ratio=0.7, opset=opset, precision=how, output=output))
    assert stamped(output) == (opset, FORMAT[opset])


def test_newer_operators_are_written_in_older_ones() -> None:
    body = "g = Gelu (x) m = ReduceMean <noop_with_empty_axes = 0> (g, one) "
    body += "a, b = Split <axis = 1, num_outputs = 2> (g) s = Sub (a, b) y = Add (s, m)"
    model = small_graph(body, "float[2, 8, 3] y", opset=20)

    def lowered(graph: ir.Model) -> int:
        lower_opset(graph, 17)
        return 1

    _, graph = apply(lowered, model, tolerance=1e-6)
    assert (operators(graph)["Gelu"], operators(graph)["Erf"]) == (0, 1)
    assert (graph.opset_imports[""], graph.ir_version) == (17, 8)
    onnx.checker.check_model(to_bytes(graph), full_check=True)


def test_what_the_older_one_lacks_is_named() -> None:
    model = in_memory(
        small_graph("whole = Cast <to = 7> (x) y = BitwiseNot (whole)", "int64[2, 16, 3] y")
    )
    with pytest.raises(DynexportError, match=r"opset 17 has no such BitwiseNot: give `opset` 20"):
        lower_opset(model, 17)
