"""What is wrong with a graph as it stands: constants, and how int8 is restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from made.tiny import Tiny, convert_tiny, typed

from dynexport.formats.onnx_file import read_metadata
from dynexport.graph.half import to_half
from dynexport.verify.structure import structure_failures

LAYER = "blocks.2.mlp.fc1/MatMul"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("deit"), "deit", (0.7, 0.5, 0.3), batch="2")


def failures_of(model: ir.Model) -> tuple[str, ...]:
    return structure_failures(model, read_metadata("tiny", model))


def change(model: ir.Model, name: str, place: int, array: Any) -> None:
    """Another constant for one input of a node."""
    node = next(node for node in model.graph if node.name == name)
    value = ir.Value(name=f"{name}/other", const_value=ir.tensor(array, name=f"{name}/other"))
    value.dtype = ir.DataType.INT8 if array.dtype == np.int8 else ir.DataType.FLOAT
    model.graph.initializers.add(value)
    node.replace_input_with(place, value)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_sound_graph_is_not_accused(tiny: Tiny, precision: str) -> None:
    assert failures_of(typed(tiny, precision)) == ()


def test_scales_that_half_precision_rounded_are_those_chosen(tiny: Tiny) -> None:
    graph = to_half(typed(tiny, "int8"), "fp16")
    assert failures_of(graph) == ()


def test_a_pair_restores_as_it_quantised(tiny: Tiny) -> None:
    graph = typed(tiny, "int8")
    change(graph, f"{LAYER}/x", 2, np.array(1, np.int8))
    told = f"{LAYER}/x restores with another zero point than it was quantised with"
    assert failures_of(graph) == (told,)
    graph = typed(tiny, "int8")
    change(graph, f"{LAYER}/x", 1, np.array(0.5, np.float32))
    told = f"{LAYER}/x restores with another scale than it was quantised with"
    assert failures_of(graph) == (told,)


def test_steps_are_those_that_calibration_chose(tiny: Tiny) -> None:
    graph = typed(tiny, "int8")
    for name in (f"{LAYER}/x_int8", f"{LAYER}/x"):
        change(graph, name, 1, np.array(0.5, np.float32))
    (failure,) = failures_of(graph)
    assert failure.startswith(f"{LAYER} takes what is quantised in steps of 0.5, where calibration")


def test_a_constant_that_is_no_number(tiny: Tiny) -> None:
    graph = typed(tiny, "fp32")
    change(graph, "head/Gemm", 2, np.full(10, np.nan, np.float32))
    assert failures_of(graph) == ("constant head/Gemm/other holds NaN",)
