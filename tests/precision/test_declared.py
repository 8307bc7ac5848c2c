"""What precisions declare, and that nothing else is asked."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import onnx_ir as ir
import pytest

from dynexport.compare.tolerances import Limits
from dynexport.errors import InputError
from dynexport.precision import (
    Precision,
    choose_tolerances,
    find_precision,
    precision_of,
    precisions,
)

NAMES = ("fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-dynamic")


def test_their_order_is_that_of_help_and_completion() -> None:
    assert tuple(precisions()) == NAMES
    assert {name: kind.images for name, kind in precisions().items() if kind.images != "none"} == {
        **dict.fromkeys(("fp16", "bf16"), "looked at"),
        **dict.fromkeys(("int8", "int8-fp16"), "needed"),
    }
    assert {name: kind.half for name, kind in precisions().items() if kind.half} == {
        "fp16": "fp16",
        "bf16": "bf16",
        "int8-fp16": "fp16",
    }
    assert [name for name, kind in precisions().items() if not kind.engines] == ["int8-dynamic"]


def test_a_wrong_name_brings_the_nearest() -> None:
    for ask in (find_precision, Precision):
        with pytest.raises(InputError, match=r"unknown precision 'int-8': did you mean 'int8'"):
            ask("int-8")


def test_what_cannot_be_had_names_what_can() -> None:
    with pytest.raises(InputError, match=r"int8 is calibrated .*, or choose int8-dynamic, which"):
        Precision("int8")
    with pytest.raises(InputError, match=r"bf16 keeps .* goes with fp16 and int8-fp16$"):
        Precision("bf16", io="half")
    with pytest.raises(InputError, match=r"fp16 has no layers .* goes with int8 or int8-fp16$"):
        Precision("fp16", fallback_to="auto")
    words = "^tensorrt has no operators for int8-dynamic: choose int8-fp16 or int8, which are"
    with pytest.raises(InputError, match=words):
        Precision("int8-dynamic").require_engine("tensorrt")
    Precision("fp16").require_engine("tensorrt")


def test_tolerances_are_the_precision_s() -> None:
    for name in ("int8-fp16", "int8-dynamic"):  # a file of them looks like int8
        assert find_precision(name).recognise is None
        assert choose_tolerances(name) == choose_tolerances("int8")
    assert choose_tolerances("of another tool") == choose_tolerances("fp32")
    assert choose_tolerances("fp16", Limits(tie_margin=0.5)).tie_margin == 0.5


@pytest.mark.parametrize(
    ("dtype", "quantised", "name"),
    [
        ("FLOAT", False, "fp32"),
        ("FLOAT16", False, "fp16"),
        ("BFLOAT16", False, "bf16"),
        ("FLOAT16", True, "int8"),
    ],
)
def test_a_graph_is_recognised_by_what_it_holds(dtype: str, quantised: bool, name: str) -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    node = ir.node("Identity", [x])
    graph = ir.Model(ir.Graph([x], node.outputs, nodes=[node], name="g"), ir_version=10)
    kind = ir.DataType[dtype]
    weight = ir.Tensor(np.ones((3, 4), kind.numpy()), dtype=kind, name="w")
    graph.graph.register_initializer(ir.Value(name="w", const_value=weight))
    if quantised:
        graph.graph.append(ir.node("QuantizeLinear", [x]))
    assert precision_of(graph) == name


def test_the_digest_of_settings_is_that_of_release_0_1_0() -> None:
    """By it a sweep that was stopped finds its rows again."""
    settings = json.dumps(dataclasses.asdict(Precision())).encode()
    released = "72728b94cab3f1b85478c168e4ae449b7af044a24ed88b853499c4086aebaf6b"
    assert hashlib.sha256(settings).hexdigest() == released
