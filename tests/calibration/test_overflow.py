"""Values too large for half precision: that they are found, named, and kept in float32."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from dynexport.calibration.overflow import HEADROOM, LARGEST, find_overflow
from dynexport.conversion import Conversion
from dynexport.errors import ImageError, InputError, ModelFileError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.emulation import emulate_half
from dynexport.graph.functions import inline_functions
from dynexport.graph.half import to_half
from dynexport.graph.probe import with_outputs
from dynexport.graph.twin import dense_twin
from dynexport.runtimes import open_runner


def graph_of(text: str, constants: Mapping[str, np.ndarray] | None = None) -> ir.Model:
    """A graph in ONNX's own notation, with these constants, each node named after its output."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    for name, array in (constants or {}).items():
        value = onnx.numpy_helper.from_array(np.asarray(array, dtype=np.float32), name)
        proto.graph.initializer.append(value)
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def logits_of(model: ir.Model, images: np.ndarray) -> np.ndarray:
    with open_runner("onnxruntime", to_bytes(model)) as runner:
        (output,) = runner.run(images).values()
    return output


def rows(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 28, 28)).astype(np.float32)


NORM = """g (float[b, 4] images) => (float[b, 4] y) {
    h = Mul(images, w)
    r = Relu(h)
    n = LayerNormalization <axis = -1> (r, one)
    y = Mul(n, one)
}"""
"""Values of 1e5, and a norm that brings them back; its scale and what is behind it fit."""

LARGE = {"w": np.full(4, 1e4), "one": np.ones(4)}


def test_who_makes_or_takes_a_large_value_stays_float32() -> None:
    """And who takes what they make of it does not, once that fits."""
    model = graph_of(NORM, LARGE)
    images = rows(1, 4, 10, -2)
    found = find_overflow(model, [images], "fp16")
    assert found == pytest.approx({"h": 1e5, "r": 1e5, "n": 1e5})
    kept = to_half(model, "fp16", single=found)
    assert [n.name for n in kept.graph] == ["h", "r", "n", "n/fp16", "y", "y/fp32"]
    exact = logits_of(model, images)
    assert not np.isfinite(logits_of(emulate_half(to_half(model, "fp16")), images)).all()
    assert logits_of(emulate_half(kept), images) == pytest.approx(exact, abs=2e-3)
    assert find_overflow(model, [images], "bf16") == {}


def with_large_values(conversion: Conversion, factor: float) -> ir.Model:
    """The tiny model with the second layer of an MLP scaled up: from there on the residual stream
    is large, and each norm brings it back."""
    model = inline_functions(read_model(conversion.onnx))
    scaled = [name for name in model.graph.initializers if name.startswith("blocks.1.mlp.fc2")]
    assert len(scaled) == 2
    for name in scaled:
        value = model.graph.initializers[name]
        array = value.const_value.numpy() * np.float32(factor)
        value.const_value = ir.tensor(array, name=name)
    return model


def test_a_large_residual_stream_stays_float32(tiny_conversion: Conversion) -> None:
    """In fp16 nothing but NaN is left of the logits; with norms and sums in float32 they agree."""
    model, images = with_large_values(tiny_conversion, 4e4), random_images(5)
    found = find_overflow(model, [images[:2], images[2:]], "fp16")
    assert max(found.values()) > LARGEST["fp16"]
    large = set(found)
    assert {"blocks.2.norm1/LayerNormalization", "blocks.3/Add_1"} < large
    assert not any(name.startswith("blocks.0") for name in large)
    products = [name for name in large if name.endswith(("MatMul", "Gemm"))]
    assert products == ["blocks.1.mlp.fc2/MatMul"]
    exact = logits_of(model, images)
    broken = logits_of(
        emulate_half(to_half(model, "fp16", marks=tiny_conversion.metadata.dense_twin)), images
    )
    assert not np.isfinite(broken).any()
    kept = to_half(model, "fp16", marks=tiny_conversion.metadata.dense_twin, single=found)
    errors = np.abs(logits_of(emulate_half(kept), images) - exact).max(axis=1)
    assert 0 < np.median(errors) < 0.002 * np.abs(exact).max(), "one may swap near-tied tokens"
    marks = tiny_conversion.metadata.dense_twin
    onnx.checker.check_model(ir.to_proto(dense_twin(kept, marks)), full_check=True)


def test_a_model_that_fits_holds_nothing_large(tiny_conversion: Conversion) -> None:
    """Nor does the class token's place in front take a score that half precision cannot hold."""
    model = inline_functions(read_model(tiny_conversion.onnx))
    assert find_overflow(model, [random_images(3)], "fp16") == {}


@pytest.mark.parametrize(("value", "found"), [(32752.0, False), (32784.0, True), (-4e4, True)])
def test_values_near_the_largest_count(value: float, found: bool) -> None:
    assert LARGEST["fp16"] / HEADROOM == 32752
    model = graph_of("g (float[b, 2] images) => (float[b, 2] y) { y = Neg(images) }")
    assert find_overflow(model, [rows(1, value)], "fp16") == ({"y": abs(value)} if found else {})
    assert find_overflow(model, [rows(1, 2), rows(0, value), rows(3, 4)], "fp16") == (
        {"y": abs(value)} if found else {}
    )


def test_constants_count_though_no_image_shows_them() -> None:
    """A mask that hides a value: what comes of it is computed in float32 with it."""
    text = """g (float[b, 2] images) => (float[b, 2] y)
    { m = Min(images, big)  y = Relu(m) }"""
    model = graph_of(text, {"big": np.array([1e9, -np.inf])})
    assert find_overflow(model, [rows(1, 2)], "fp16") == {"m": 1e9}


def test_infinities_of_a_mask_are_no_overflow() -> None:
    text = """g (float[b, 3] images) => (float[b, 3] y)
    { m = Add(images, mask)  s = Mul(m, m)  y = Softmax <axis = -1> (m)  z = Neg(s) }"""
    model = graph_of(text, {"mask": np.array([0, -np.inf, 0])})
    model.graph.outputs.append(model.graph[-1].outputs[0])
    assert find_overflow(model, [rows(1, 2, 3)], "fp16") == {}
    assert find_overflow(model, [rows(300, 2, 3)], "fp16") == {"s": 9e4, "z": 9e4}


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ("h = Sqrt(images)  r = Max(h, zero)", r"node h \(Sqrt\) gives NaN"),
        ("h = Mul(images, huge)  r = Mul(h, huge)", r"node r \(Mul\) gives infinity"),
        ("h = Div(images, zero)  r = Min(h, huge)", r"node h \(Div\) gives infinity"),
    ],
)
def test_a_model_that_is_broken_in_float32_is_named(steps: str, what: str) -> None:
    text = f"g (float[b, 2] images) => (float[b, 1] y) {{ {steps}  y, i = TopK(r, k) }}"
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    k = onnx.numpy_helper.from_array(np.array([1]), "k")
    proto.graph.initializer.append(k)
    for name, value in (("zero", 0.0), ("huge", 1e30)):
        constant = onnx.numpy_helper.from_array(np.array([value], dtype=np.float32), name)
        proto.graph.initializer.append(constant)
    for node in proto.graph.node:
        node.name = node.output[0]
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    with pytest.raises(ModelFileError, match=f"{what} in float32 already"):
        find_overflow(model, [rows(1, -2)], "fp16")


def test_images_must_be_there_and_hold_numbers() -> None:
    model = graph_of("g (float[b, 2] images) => (float[b, 2] y) { y = Neg(images) }")
    with pytest.raises(ImageError, match="no images to look for overflow on"):
        find_overflow(model, [], "fp16")
    with pytest.raises(ImageError, match=r"one of the images 1 to 2, .*holds NaN or infinity"):
        find_overflow(model, [rows(1, 2), np.array([[1, 2], [np.nan, 1]], np.float32)], "fp16")


def test_a_static_graph_takes_a_last_batch_that_is_short() -> None:
    model = graph_of("g (float[4, 2] images) => (float[4, 2] y) { y = Neg(images) }")
    whole = np.ones((4, 2), dtype=np.float32)
    batches = (images for images in (whole, 5e4 * whole[:1]))
    assert find_overflow(model, batches, "fp16") == {"y": 5e4}


def test_ends_in_half_must_fit() -> None:
    text = "g (float[b, 2] images) => (float[b, 2] y) { h = Mul(images, w)  y = Neg(h) }"
    model = graph_of(text, {"w": np.array([200.0])})
    assert list(find_overflow(model, [rows(1, 300)], "fp16")) == ["h", "y"]
    with pytest.raises(InputError, match=r"y reaches 6e\+04, and fp16 holds 6.55e\+04 at most"):
        find_overflow(model, [rows(1, 300)], "fp16", half_io=True)
    with pytest.raises(InputError, match=r"images reaches 4e\+04"):
        find_overflow(model, [rows(1, 4e4)], "fp16", half_io=True)
    assert find_overflow(model, [rows(1, 300)], "bf16", half_io=True) == {}


def test_a_graph_in_half_precision_is_refused() -> None:
    model = to_half(graph_of(NORM, LARGE), "fp16")
    with pytest.raises(ModelFileError, match="in half precision already"):
        find_overflow(model, [rows(1, 2, 3, 4)], "fp16")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["Add", "Mul", "Max", "Grow", "Shrink", "Norm", "Relu", "Transpose"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(0, 2**16))
def test_what_is_found_is_what_the_evaluator_shows(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """In graphs of any form; and with it kept in float32, half precision stays finite."""
    values, lines = ["images"], []
    for number, (step, i, j) in enumerate(steps):
        one, other, name = values[i % len(values)], values[j % len(values)], f"v{number}"
        line = {
            "Grow": f"{name} = Mul({one}, large)",
            "Shrink": f"{name} = Mul({one}, small)",
            "Norm": f"{name} = LayerNormalization <axis = -1> ({one}, ones)",
            "Relu": f"{name} = Relu({one})",
            "Transpose": f"{name} = Transpose({one})",
        }.get(step, f"{name} = {step}({one}, {other})")
        values.append(name)
        lines.append(line)
    text = f"g (float[3, 3] images) => (float[3, 3] {values[-1]}) {{ {'  '.join(lines)} }}"
    constants = {"large": np.array([150.0]), "small": np.array([0.01]), "ones": np.ones(3)}
    model = graph_of(text, constants)
    images = np.random.default_rng(seed).normal(0, 3, (3, 3)).astype(np.float32)
    everything = with_outputs(model, values[1:])
    names = [str(value.name) for value in everything.graph.outputs]
    with np.errstate(all="ignore"):
        proto = ir.serde.serialize_model(everything)
        shown = dict(
            zip(names, ReferenceEvaluator(proto).run(None, {"images": images}), strict=True)
        )
    used = {value.name for node in model.graph for value in node.inputs} | {values[-1]}
    shown = {name: array for name, array in shown.items() if name in used}
    if not all(np.isfinite(array).all() for array in shown.values()):
        with pytest.raises(ModelFileError, match="in float32 already"):
            find_overflow(model, [images], "fp16")
        return
    large = {name for name, array in shown.items() if np.abs(array).max() > 32752}
    expected = [
        node.name
        for node in model.graph
        if large & {value.name for value in (*node.inputs, *node.outputs)}
    ]
    found = find_overflow(model, [images], "fp16")
    assert list(found) == expected
    kept = emulate_half(to_half(model, "fp16", single=found))
    half = with_outputs(kept, [name for name in values[1:] if name in used])
    with open_runner("onnxruntime", to_bytes(half)) as runner:
        assert all(np.isfinite(array).all() for array in runner.run(images).values())


CHAIN = """
import resource, sys
import numpy as np, onnx, onnx_ir as ir
from dynexport.calibration.overflow import find_overflow
steps = "  ".join(f"v{i + 1} = {'Neg' if i % 2 else 'Sigmoid'}(v{i})" for i in range(100))
ends = "(float[1, 1000, 1000] images) => (float[1, 1000, 1000] v100)"
text = f"g {ends} {{ v0 = Neg(images) {steps} }}"
proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
images = [np.ones((1, 1000, 1000), np.float32)] * 2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
find_overflow(model, images, "fp16")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_depth(tmp_path: Path) -> None:
    """A hundred values of 4 MB each: no more than a few are there at once."""
    done = subprocess.run(
        [sys.executable, "-c", CHAIN], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert int(done.stdout) < 120
