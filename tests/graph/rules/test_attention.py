"""Attention: what the rules say of it, and whether TensorRT-RTX makes it one kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from made.onnx_models import (
    BOOL,
    FLOAT,
    HALF,
    Value,
    built,
    check,
    model_of,
    needs_rtx,
    node,
    told,
    unary,
)

from dynexport.graph.rule import Finding


class Block:
    """An attention of (2, tokens, heads x channels) in ONNX, with nodes put inside."""

    def __init__(self, tokens: int = 32, channels: int = 32, values: int = 0, kind: int = HALF):
        self.tokens, self.channels, self.values = tokens, channels, values or channels
        self.kind, self.heads = kind, 4
        self.type = np.float16 if kind == HALF else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []

    def add(self, op_type: str, inputs: str, output: str, **attributes: Any) -> str:
        self.nodes.append(node(op_type, inputs, output, **attributes))
        return output

    def number(self, name: str, value: Any) -> str:
        """A constant of the attention's own type."""
        self.constants[name] = np.asarray(value, self.type)
        return name

    def indices(self, name: str, *numbers: int) -> str:
        self.constants[name] = np.array(numbers)
        return name

    def square(self, name: str) -> str:
        """A constant as large as the scores of one image."""
        return self.number(name, np.ones((1, self.heads, self.tokens, self.tokens)))

    def project(self, name: str, channels: int, order: tuple[int, ...]) -> str:
        width = self.heads * self.channels
        weight = np.random.default_rng(0).normal(0, 0.1, (width, self.heads * channels))
        self.add("MatMul", f"x {self.number(f'w{name}', weight)}", f"{name}0")
        shape = self.indices(f"to{name}", 0, self.tokens, self.heads, channels)
        self.add("Reshape", f"{name}0 {shape}", f"{name}1")
        return self.add("Transpose", f"{name}1", f"{name}2", perm=order)

    def model(
        self,
        before: Callable[[Block, str], str] = lambda block, q: q,
        between: Callable[[Block, str], str] = lambda block, x: x,
        behind: Callable[[Block, str], str] = lambda block, p: p,
        axis: int = -1,
        einsum: bool = False,
    ) -> onnx.ModelProto:
        """``before``, ``between``, ``behind``: nodes on queries, on scores, on probabilities."""
        q = before(self, self.project("q", self.channels, (0, 2, 1, 3)))
        k = self.project("k", self.channels, (0, 2, 1, 3) if einsum else (0, 2, 3, 1))
        v = self.project("v", self.values, (0, 2, 1, 3))
        scores, mixed = "bhqc,bhkc->bhqk", "bhqk,bhkc->bhqc"
        product = {"op_type": "Einsum", "equation": scores} if einsum else {"op_type": "MatMul"}
        x = between(self, self.add(inputs=f"{q} {k}", output="scores", **product))
        p = behind(self, self.add("Softmax", x, "p", axis=axis))
        product = {"op_type": "Einsum", "equation": mixed} if einsum else {"op_type": "MatMul"}
        self.add(inputs=f"{p} {v}", output="mix", **product)
        self.add("Transpose", "mix", "o0", perm=(0, 2, 1, 3))
        width = self.heads * self.values
        self.add("Reshape", f"o0 {self.indices('too', 0, self.tokens, width)}", "o1")
        self.add("MatMul", f"o1 {self.number('wo', np.ones((width, width)))}", "y")
        size = [2, self.tokens]
        inputs = [("x", [*size, self.heads * self.channels], self.kind), *self.inputs]
        outputs = [("y", [*size, width], self.kind), *self.outputs]
        return model_of(self.nodes, inputs, outputs, **self.constants)


def function(op_type: str) -> dict[str, Any]:
    return {"between": lambda block, x: block.add(op_type, x, "z")}


def scaled(op_type: str, number: Any = 0.2) -> Callable[[Block, str], str]:
    return lambda block, x: block.add(op_type, f"{x} {block.number('scale', number)}", "scaled")


def biased(block: Block, x: str) -> str:
    return block.add("Add", f"{x} {block.square('bias')}", "biased")


def masked(block: Block, x: str) -> str:
    block.inputs.append(("mask", [2, 1, 1, block.tokens], block.kind))
    return block.add("Add", f"{x} mask", "masked")


def chosen(low: float) -> Callable[[Block, str], str]:
    def where(block: Block, x: str) -> str:
        block.inputs.append(("keep", [2, 1, 1, block.tokens], BOOL))
        return block.add("Where", f"keep {x} {block.number('low', low)}", "chosen")

    return where


def window_mask(block: Block, x: str) -> str:
    """As Swin masks shifted windows: images taken apart, a mask each, put together."""
    size = (block.heads, block.tokens, block.tokens)
    block.add("Reshape", f"{x} {block.indices('apart', 1, 2, *size)}", "m0")
    mask = block.number("mask", np.ones((1, 2, 1, *size[1:])))
    block.add("Add", f"m0 {mask}", "m1")
    return block.add("Reshape", f"m1 {block.indices('together', 2, *size)}", "m2")


def guarded(block: Block, p: str) -> str:
    """As PyTorch's export of scaled_dot_product_attention puts 0 where a row was all masked."""
    block.add("IsNaN", p, "nan")
    return block.add("Where", f"nan {block.number('none', 0)} {p}", "guarded")


def quantise(block: Block, x: str) -> str:
    block.constants["zero"] = np.int8(0)
    block.add("QuantizeLinear", f"{x} {block.number('step', 0.05)} zero", "q8")
    return block.add("DequantizeLinear", "q8 step zero", "f8")


def talking(block: Block, x: str) -> str:
    block.add("Transpose", x, "t0", perm=(0, 2, 3, 1))
    block.add("MatMul", f"t0 {block.number('heads', np.eye(4))}", "t1")
    return block.add("Transpose", "t1", "t2", perm=(0, 3, 1, 2))


def convolved(block: Block, x: str) -> str:
    return block.add("Conv", f"{x} {block.number('heads', np.eye(4)[..., None, None])}", "c")


def centred(block: Block, x: str) -> str:
    block.add("ReduceMean", f"{x} {block.indices('last', -1)}", "mean")
    return block.add("Sub", f"{x} mean", "centred")


def clipped(block: Block, x: str) -> str:
    return block.add("Clip", f"{x} {block.number('low', -9)} {block.number('high', 9)}", "clipped")


def picked(block: Block, x: str) -> str:
    return block.add("Gather", f"{x} {block.indices('all', *range(block.tokens))}", "g", axis=3)


def read(name: str) -> Callable[[Block, str], str]:
    """The scores or probabilities as an output of the model as well."""

    def output(block: Block, x: str) -> str:
        block.outputs.append((x, [2, block.heads, block.tokens, block.tokens], block.kind))
        return x

    return output


def class_row(block: Block, p: str) -> str:
    """The probabilities of the first query, computed a second time to be read."""
    ends = f"{block.indices('start', 0)} {block.indices('end', 1)} {block.indices('rows', 2)}"
    block.add("Slice", f"q2 {ends}", "row0")
    block.add("MatMul", "row0 k2", "row1")
    block.add("Softmax", "row1", "row2", axis=-1)
    block.outputs.append(("row2", [2, block.heads, 1, block.tokens], block.kind))
    return p


def then(*steps: Callable[[Block, str], str]) -> Callable[[Block, str], str]:
    def run(block: Block, x: str) -> str:
        for step in steps:
            x = step(block, x)
        return x

    return run


ATTENTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "scale on queries": ({}, {"before": scaled("Mul")}, True),
    "queries divided": ({}, {"before": scaled("Div", 5)}, True),
    "no scale": ({}, {}, True),
    "scale behind": ({}, {"between": scaled("Mul")}, True),
    "quotient behind": ({}, {"between": scaled("Div", 5)}, True),
    "scale by head": ({}, {"between": scaled("Mul", np.ones((4, 1, 1)))}, True),
    "bias": ({}, {"before": scaled("Mul"), "between": biased}, True),
    "scale and bias": ({}, {"between": then(scaled("Mul"), biased)}, True),
    "mask by Add": ({}, {"before": scaled("Mul"), "between": masked}, True),
    "scale and mask": ({}, {"between": then(scaled("Div", 5), masked)}, True),
    "mask by Where": ({}, {"between": chosen(-1e4)}, True),
    "mask by Where, infinite": ({}, {"between": chosen(-np.inf)}, True),
    "bias and window mask": ({}, {"between": then(biased, window_mask)}, True),
    "guard against NaN": ({}, {"behind": guarded}, True),
    "clip": ({}, {"between": clipped}, True),
    "Identity": ({}, function("Identity"), True),
    "Exp": ({}, function("Exp"), True),
    "factor behind": ({}, {"behind": scaled("Mul", 0.9)}, True),
    "int8 probabilities": ({}, {"behind": quantise}, True),
    "a row read, computed apart": ({}, {"behind": class_row}, True),
    "Einsum": ({}, {"einsum": True}, True),
    "16 channels": ({"channels": 16}, {}, True),
    "64 channels": ({"channels": 64}, {}, True),
    "256 channels": ({"channels": 256}, {}, True),
    "49 tokens": ({"tokens": 49}, {}, True),
    "Relu": ({}, function("Relu"), False),
    "Tanh": ({}, function("Tanh"), False),
    "Sigmoid": ({}, function("Sigmoid"), False),
    "Erf": ({}, function("Erf"), False),
    "Elu": ({}, function("Elu"), False),
    "Pow": ({}, {"between": scaled("Pow", 2)}, False),
    "mean taken off": ({}, {"between": centred}, False),
    "columns gathered": ({}, {"between": picked}, False),
    "heads mixed by MatMul": ({}, {"between": talking}, False),
    "heads mixed by Conv": ({}, {"between": convolved}, False),
    "heads mixed behind": ({}, {"behind": talking}, False),
    "Softmax over queries": ({}, {"axis": 2}, False),
    "Softmax over heads": ({}, {"axis": 1}, False),
    "scores are an output": ({}, {"between": read("scores")}, False),
    "probabilities are an output": ({}, {"behind": read("p")}, False),
    "8 channels": ({"channels": 8}, {}, False),
    "264 channels": ({"channels": 264}, {}, False),
    "fewer channels of values": ({"values": 16}, {}, False),
}
"""Name -> the block, what is put into it, and whether TensorRT-RTX 1.7.1 makes it one kernel."""


def claims(model: onnx.ModelProto) -> list[Finding]:
    """What is said to keep an attention from being one kernel."""
    return [f for f in check(model) if f.rule == "unfused-attention" and "not fused" in f.what]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name: str) -> None:
    block, inside, fused = ATTENTIONS[name]
    found = claims(Block(**block).model(**inside))
    assert bool(found) is not fused
    assert all(finding.severity == "slow" and finding.fix for finding in found)


@needs_rtx
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_of_tensorrt(name: str) -> None:
    block, inside, fused = ATTENTIONS[name]
    assert one_kernel(Block(**block).model(**inside)) is fused


def one_kernel(model: onnx.ModelProto) -> bool:
    return any("mha" in layer.name for layer in built(model).layers)


@needs_rtx
@pytest.mark.parametrize("channels", [12, 36, 100])
def test_heads_of_odd_sizes_are_padded(channels: int) -> None:
    model = Block(channels=channels).model(before=scaled("Mul"))
    (finding,) = check(model)
    assert finding.what.startswith(f"heads of {channels} channels are padded by copies")
    assert (finding.rule, finding.severity, finding.node) == (
        "unfused-attention",
        "slow",
        "n/scores",
    )
    copies = [layer.name for layer in built(model).layers if "Conc" in layer.name]
    assert one_kernel(model)
    assert len(copies) >= 3


@needs_rtx
def test_attention_in_float32_is_never_one_kernel() -> None:
    """Known, and no finding: it is a matter of precision, not of the graph."""
    model = Block(kind=FLOAT).model(before=scaled("Mul"))
    assert check(model) == ()
    assert not one_kernel(model)


def test_a_scale_behind_the_product_is_named_once() -> None:
    for inside in ({"between": then(scaled("Mul"), biased)}, {"between": scaled("Div", 5)}):
        assert told(Block().model(**inside)) == [("late-scale", "risky", "n/scaled")]
    assert told(Block().model(before=scaled("Mul"))) == []
    assert told(Block().model(behind=scaled("Mul", 0.9))) == []


def test_a_softmax_without_values_is_no_attention() -> None:
    assert check(unary("Softmax", [2, 3, 4, 4], axis=1)) == ()
