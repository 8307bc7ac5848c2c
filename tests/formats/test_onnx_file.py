"""Reading ONNX files as other tools leave them."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from dynexport.check import check_model
from dynexport.conversion import Conversion
from dynexport.errors import ModelFileError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.optimize import optimize_model
from dynexport.verify import verify_model


@pytest.fixture
def unsorted(tiny_conversion: Conversion, tmp_path: Path) -> Path:
    """The tiny model with its nodes in reverse, those of its functions too, as no tool leaves them;
    ONNX Runtime's own conversion to half precision appends its Casts at the end."""
    proto = onnx.load(tiny_conversion.onnx)
    assert proto.functions
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        reverse = list(nodes)[::-1]
        del nodes[:]
        nodes.extend(reverse)
    path = tmp_path / "unsorted.onnx"
    path.write_bytes(proto.SerializeToString())
    shutil.copy(tiny_conversion.reference, tmp_path / "unsorted.reference.npz")
    return path


def test_nodes_out_of_order_are_read_in_order(
    unsorted: Path, tiny_conversion: Conversion, tmp_path: Path
) -> None:
    onnx.checker.check_model(to_bytes(read_model(unsorted)), full_check=True)
    verify_model(unsorted).require_passed()
    found, expected = check_model(unsorted), check_model(tiny_conversion.onnx)
    assert (found.findings, found.nodes) == (expected.findings, expected.nodes)
    assert optimize_model(unsorted, output=tmp_path / "lean.onnx").unchanged


def test_a_file_in_order_is_read_as_it_is(tiny_conversion: Conversion) -> None:
    content = Path(tiny_conversion.onnx).read_bytes()
    assert to_bytes(read_model(tiny_conversion.onnx)) == content


def test_nodes_that_wait_for_each_other(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Relu", [a], [b]) for a, b in ("ab", "ba")]
    ends = [onnx.helper.make_tensor_value_info("a", 1, [1])]
    path = tmp_path / "circle.onnx"
    path.write_bytes(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], ends)).SerializeToString()
    )
    with pytest.raises(ModelFileError, match=r"circle\.onnx holds nodes that wait for each other"):
        read_model(path)
