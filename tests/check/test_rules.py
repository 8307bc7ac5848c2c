"""The rules of preflight, each beside what TensorRT-RTX makes of the same graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from made.onnx_models import (
    BOOL,
    FLOAT,
    HALF,
    INT8,
    INT32,
    INT64,
    RTX,
    Value,
    built,
    check,
    model_of,
    needs_rtx,
    node,
    told,
    unary,
)
from onnx import helper, numpy_helper

from dynexport.check import fixes_for
from dynexport.errors import BuildError
from dynexport.runtimes.tensorrt.parser import parse


def top_k(asked: Any, rows: int, axis: int = -1) -> onnx.ModelProto:
    nodes = [node("TopK", "x k", "v i", axis=axis)]
    return model_of(nodes, [("x", [2, rows], FLOAT)], [("i", [2, asked], INT64)], k=[asked])


def top_k_of(source: list[onnx.NodeProto], *inputs: Value, **constants: Any) -> onnx.ModelProto:
    """A TopK of 800 rows whose K is the value k of ``source``."""
    nodes = [*source, node("TopK", "x k", "v i")]
    ends = [("x", [2, 800], FLOAT), *inputs]
    return model_of(nodes, ends, [("i", [2, "k"], INT64)], **constants)


def quantised(zero: Any, scale: Any = 0.1, axis: int | None = None, **more: Any) -> onnx.ModelProto:
    """x quantised and back; ``zero`` is the zero point, None for none."""
    settings = {} if axis is None else {"axis": axis}
    inputs = " s" if zero is None else " s z"
    nodes = [
        node("QuantizeLinear", f"x{inputs}", "q", **settings),
        node("DequantizeLinear", f"q{inputs}", "y", **settings),
    ]
    constants = {"s": np.asarray(scale, np.float32)} | ({} if zero is None else {"z": zero})
    return model_of(nodes, [("x", [2, 4], FLOAT)], [("y", [2, 4], FLOAT)], **constants, **more)


def dequantised(weight: Any, **constants: Any) -> onnx.ModelProto:
    """x times a quantised weight (4, 4)."""
    zero = " z" if constants else ""
    nodes = [node("DequantizeLinear", f"w s{zero}", "f"), node("MatMul", "x f", "y")]
    scale = np.float32(0.1)
    return model_of(
        nodes, [("x", [2, 4], FLOAT)], [("y", [2, 4], FLOAT)], w=weight, s=scale, **constants
    )


def attention_operator(kind: int, shape: list[int], **attributes: Any) -> onnx.ModelProto:
    nodes = [node("Attention", "q k v", "y", **attributes)]
    inputs = [(name, shape, kind) for name in "qkv"]
    return model_of(nodes, inputs, [("y", shape, kind)], opset=23)


ONES = np.ones((4, 4), np.int8)
CASES: dict[str, tuple[onnx.ModelProto, str | None, str]] = {
    "K over the limit": (top_k(3841, 8000), "top-k", "n/v"),
    "K at the limit": (top_k(3840, 8000), None, ""),
    "K over the rows": (top_k(9, 8), "top-k", "n/v"),
    "K in a Constant": (
        top_k_of([node("Constant", "", "k", value_ints=[900])]),
        "top-k",
        "n/v",
    ),
    "K of a fixed shape": (
        top_k_of([node("Shape", "x", "n", start=1), node("Div", "n two", "k")], two=[2]),
        None,
        "",
    ),
    "K too large, of a fixed shape": (
        top_k_of([node("Shape", "x", "n", start=1), node("Mul", "n two", "k")], two=[2]),
        "top-k",
        "n/v",
    ),
    "K of the data": (
        top_k_of(
            [
                node("ReduceMax", "x", "m"),
                node("Cast", "m", "c", to=INT64),
                node("Reshape", "c one", "k"),
            ],
            one=[1],
        ),
        "top-k",
        "n/v",
    ),
    "K that is fed": (top_k_of([], ("k", [1], INT64)), "top-k", "n/v"),
    "K of opset 9": (
        model_of(
            [node("TopK", "x", "v i", k=5000)],
            [("x", [2, 8000], FLOAT)],
            [("i", [2, 5000], INT64)],
            opset=9,
        ),
        "top-k",
        "n/v",
    ),
    "symmetric int8": (quantised(np.int8(0)), None, ""),
    "symmetric int8 by channel": (quantised(np.zeros(4, np.int8), np.ones(4), axis=1), None, ""),
    "int8 with a zero point": (quantised(np.int8(3)), "asymmetric", "n/q"),
    "uint8 with a zero point": (quantised(np.uint8(128)), "asymmetric", "n/q"),
    "one zero point of many": (
        quantised(np.array([0, 0, 1, 0], np.int8), np.ones(4), axis=1),
        "asymmetric",
        "n/q",
    ),
    "a zero point that is fed": (
        model_of(
            [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
            [("x", [2, 4], FLOAT), ("z", [], INT8)],
            [("y", [2, 4], FLOAT)],
            s=np.float32(0.1),
        ),
        "asymmetric",
        "n/q",
    ),
    "int16": (quantised(np.int16(0), opset=21), "quantised-type", "n/q"),
    "int8 weight": (dequantised(ONES), None, ""),
    "uint8 weight": (dequantised(ONES.astype(np.uint8)), "quantised-type", "n/f"),
    "asymmetric weight": (dequantised(ONES, z=np.int8(3)), "asymmetric", "n/f"),
    "int32 bias": (
        model_of(
            [node("DequantizeLinear", "b s", "f"), node("Add", "x f", "y")],
            [("x", [2, 4], FLOAT)],
            [("y", [2, 4], FLOAT)],
            b=np.ones(4, np.int32),
            s=np.float32(0.1),
        ),
        "quantised-bias",
        "n/f",
    ),
    "MatMulInteger": (
        model_of(
            [node("MatMulInteger", "x w", "y")],
            [("x", [2, 4], INT8)],
            [("y", [2, 4], INT32)],
            w=ONES,
        ),
        "quantised-operator",
        "n/y",
    ),
    "Attention in float32": (
        attention_operator(FLOAT, [2, 3, 50, 64]),
        "attention-operator",
        "n/y",
    ),
    "Attention with small heads": (
        attention_operator(HALF, [2, 3, 50, 8]),
        "attention-operator",
        "n/y",
    ),
    "Attention with a softcap": (
        attention_operator(HALF, [2, 3, 50, 64], softcap=5.0),
        "attention-operator",
        "n/y",
    ),
    "a second open dimension": (unary("Relu", ["batch", "rows"]), "open-dimension", "x"),
    "every operator at hand": (unary("Softmax", [2, 3]), None, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    model, rule, where = CASES[name]
    refused = [(f.rule, f.node) for f in check(model) if f.severity == "refused"]
    assert set(refused) >= ({(rule, where)} if rule else set())
    assert {found for found, _ in refused} <= {rule}


@needs_rtx
@pytest.mark.parametrize("name", CASES)
def test_refused_by_tensorrt(name: str) -> None:
    """What a rule refuses TensorRT does not build, and the other way round."""
    model, rule, _ = CASES[name]
    if rule is None:
        assert built(model).content
        return
    with pytest.raises(BuildError) as refusal:
        built(model)
    fixes = fixes_for(ir.serde.deserialize_model(model), str(refusal.value))
    assert fixes == tuple(dict.fromkeys(f.fix for f in check(model) if f.severity == "refused"))


@needs_rtx
@pytest.mark.parametrize("opset", [9, 16, 20, 23, 28, 99])
def test_no_opset_is_too_old_or_too_new(opset: int) -> None:
    model = unary("Relu", [2, 3])
    model.opset_import[0].version = opset
    assert check(model) == ()
    assert parse(RTX, model.SerializeToString()) == ()


@needs_rtx
@pytest.mark.parametrize("zero", [np.uint8(0), None])
def test_unsigned_activations_are_taken_for_signed_ones(zero: Any) -> None:
    """The engine computes what that of int8 does: what lies above 127 steps is cut."""
    model = quantised(zero)
    assert told(model) == [("quantised-type", "inexact", "n/q")]
    assert built(model).layers == built(quantised(np.int8(0))).layers
    if zero is not None:  # the same names all through
        assert built(model).content == built(quantised(np.int8(0))).content


def spelled_norm(
    square: str = "Mul", axis: int = -1, kind: int = HALF, opset: int = 18
) -> onnx.ModelProto:
    nodes = [
        node("ReduceMean", "x axis", "mean"),
        node("Sub", "x mean", "d"),
        node("Mul", "d d", "dd") if square == "Mul" else node("Pow", "d two", "dd"),
        node("ReduceMean", "dd axis", "var"),
        node("Add", "eps var", "more"),
        node("Sqrt", "more", "root"),
        node("Div", "d root", "z"),
        node("Mul", "z gain", "y"),
    ]
    numbers = {"eps": 1e-5, "two": 2, "gain": np.ones(192)}
    constants = {
        k: np.asarray(v, np.float16 if kind == HALF else np.float32) for k, v in numbers.items()
    }
    ends = [[(name, [8, 64, 192], kind)] for name in "xy"]
    return model_of(nodes, *ends, opset=opset, axis=[axis], **constants)


@pytest.mark.parametrize("square", ["Mul", "Pow"])
def test_a_spelled_norm_is_named_by_its_first_node(square: str) -> None:
    (finding,) = check(spelled_norm(square))
    assert (finding.rule, finding.severity, finding.node) == ("layer-norm", "inexact", "n/mean")
    assert "LayerNormalization spelled out, from here to n/root" in finding.what
    assert finding.fix.startswith("export nn.LayerNorm itself")


def test_the_fix_of_a_norm_fits_the_graph() -> None:
    (old,) = check(spelled_norm(opset=16))
    assert old.fix.startswith("export with opset 17 or later")
    (channels,) = check(spelled_norm(axis=1))
    assert channels.fix.startswith("bring the channels last")
    rms = [node("Mul", "x x", "xx"), node("ReduceMean", "xx axis", "m"), node("Sqrt", "m", "r")]
    model = model_of(
        [*rms, node("Div", "x r", "y")], [("x", [2, 8], FLOAT)], [("y", [2, 8], FLOAT)], axis=[-1]
    )
    (finding,) = check(model)
    assert "RMSNormalization spelled out" in finding.what
    assert "opset 23" in finding.fix


def test_a_norm_kept_in_float32_among_half_precision_is_fine() -> None:
    model = spelled_norm(kind=FLOAT)
    assert told(model) == [("layer-norm", "inexact", "n/mean")]
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float16), "weight"))
    assert check(model) == ()


@needs_rtx
def test_tensorrt_squares_a_spelled_norm_in_half_precision() -> None:
    """LayerNormalization casts to float32 first; the same spelled out does not."""
    nodes = [node("LayerNormalization", "x gain bias", "y")]
    ends = [[(name, [8, 64, 192], HALF)] for name in "xy"]
    ones = np.ones(192, np.float16)
    whole = built(model_of(nodes, *ends, gain=ones, bias=ones))
    assert ["CastMean" in layer.name for layer in whole.layers] == [True]
    assert ["CastMean" in layer.name for layer in built(spelled_norm()).layers] == [False]


ROWS = [("x", [2, 50, 64], FLOAT), ("i", [2, 20], INT64)]


def gathered(expand: str, op_type: str = "GatherElements") -> onnx.ModelProto:
    """Rows of x taken, or put, by an index that is expanded over their elements."""
    nodes = [
        node("Unsqueeze", "i last", "i1"),
        node(expand, "i1 shape", "i2"),
        node(op_type, "x i2" + (" u" if op_type != "GatherElements" else ""), "y", axis=1),
    ]
    shape = [2, 20, 64] if expand == "Expand" else [1, 1, 64]
    ends = [*ROWS, ("u", [2, 20, 64], FLOAT)] if op_type != "GatherElements" else ROWS
    return model_of(nodes, ends, [("y", None, FLOAT)], last=[-1], shape=shape)


@pytest.mark.parametrize("expand", ["Expand", "Tile"])
def test_rows_moved_by_element_are_slow(expand: str) -> None:
    for operator, change in (("GatherElements", "GatherND"), ("ScatterElements", "ScatterND")):
        (finding,) = check(gathered(expand, operator))
        assert (finding.rule, finding.severity) == ("expanded-index", "slow")
        assert change in finding.fix


def test_rows_moved_by_row_are_not() -> None:
    by_row = [node("Unsqueeze", "i last", "i1"), node("GatherND", "x i1", "y", batch_dims=1)]
    assert check(model_of(by_row, ROWS, [("y", None, FLOAT)], last=[-1])) == ()
    own = [node("GatherElements", "x i", "y", axis=1)]
    inputs = [("x", [2, 50], FLOAT), ("i", [2, 20], INT64)]
    assert check(model_of(own, inputs, [("y", [2, 20], FLOAT)])) == ()


def argsort(*ends: int, scores: str = "x") -> onnx.ModelProto:
    """All 50 rows sorted, and read up to each of ``ends``."""
    nodes = [
        node("LogSoftmax", "l", "s"),
        node("Gather", "s zero", "x0", axis=2),
        node("TopK", f"{scores} k", "v i", axis=1),
        *[node("Slice", f"i zeros end{end} one", f"y{end}") for end in ends],
    ]
    ones = {"one": [1], "zeros": [0], "zero": 0, "k": [50]}
    inputs = [("x", [2, 50], FLOAT), ("l", [2, 50, 2], FLOAT)]
    outputs = [(f"y{end}", None, INT64) for end in ends]
    return model_of(nodes, inputs, outputs, **ones, **{f"end{end}": [end] for end in ends})


def test_a_sort_of_which_the_front_is_read_is_slow() -> None:
    (finding,) = check(argsort(10, 30))
    assert (finding.rule, finding.severity, finding.node) == ("full-sort", "slow", "n/v")
    assert finding.fix == "ask for K = 30"
    (finding,) = check(argsort(10, scores="x0"))
    assert finding.fix.startswith("ask for K = 10; of two classes, rank the difference")


def test_a_sort_that_is_read_whole_is_not() -> None:
    assert check(argsort(10, 50)) == ()
    model = argsort(10)
    model.graph.output.append(helper.make_tensor_value_info("i", INT64, [2, 50]))
    assert check(model) == ()


def test_what_depends_on_the_data_is_named() -> None:
    branch = helper.make_graph(
        [node("Relu", "x", "a")], "a", [], [helper.make_tensor_value_info("a", FLOAT, [2, 4])]
    )
    either = [node("If", "c", "y", then_branch=branch, else_branch=branch)]
    inputs, outputs = [("x", [2, 4], FLOAT)], [("y", [2, 4], FLOAT)]
    assert told(model_of(either, [*inputs, ("c", [], BOOL)], outputs)) == [
        ("data-dependent", "slow", "n/y")
    ]
    assert check(model_of(either, inputs, outputs, c=np.array(True))) == ()
    assert told(unary("NonZero", [2, 4])) == [("data-dependent", "slow", "n/y")]


def test_a_training_form_is_told_by_its_noise() -> None:
    assert told(unary("RandomUniformLike", [2, 4])) == [("random", "inexact", "n/y")]
    nodes = [node("Dropout", "x rate training", "y")]
    ends = [[(name, [2, 4], FLOAT)] for name in "xy"]
    for training in (True, False):
        model = model_of(nodes, *ends, rate=np.float32(0.5), training=np.array(training))
        assert bool(check(model)) is training


def test_scatters_that_add_are_risky() -> None:
    nodes = [node("ScatterElements", "x i u", "y", axis=1, reduction="add")]
    inputs = [("x", [2, 50], FLOAT), ("i", [2, 20], INT64), ("u", [2, 20], FLOAT)]
    model = model_of(nodes, inputs, [("y", [2, 50], FLOAT)])
    assert told(model) == [("scatter-reduction", "risky", "n/y")]
    if RTX.version() is not None:
        assert parse(RTX, model.SerializeToString())


@pytest.mark.parametrize("shape", [[2, 3, 50, 64], [2, 50, 192]])
def test_the_attention_operator_is_risky_where_it_is_taken(shape: list[int]) -> None:
    heads = {} if len(shape) == 4 else {"q_num_heads": 3, "kv_num_heads": 3}
    kind = HALF if len(shape) == 4 else FLOAT  # of three dimensions, TensorRT takes it in parts
    model = attention_operator(kind, shape, **heads)
    assert told(model) == [("attention-operator", "risky", "n/y")]
    if RTX.version() is not None:
        assert built(model).content
