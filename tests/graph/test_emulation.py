"""Half precision emulated in float32: the numbers of the typed graph, name by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx.reference import ReferenceEvaluator

from dynexport.conversion import Conversion
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.emulation import computes_in_half, emulate_half
from dynexport.graph.functions import inline_functions
from dynexport.graph.half import HALF, Kind, to_half
from dynexport.graph.probe import with_outputs
from dynexport.graph.selection import add_kept_outputs
from dynexport.graph.twin import dense_twin
from dynexport.runtimes import open_runner

KINDS: tuple[Kind, ...] = ("fp16", "bf16")
both = pytest.mark.parametrize("kind", KINDS)
ELEMENT = {"fp16": "float16", "bf16": "bfloat16"}
"""How ONNX's notation calls the type."""


def graph_of(text: str, **constants: np.ndarray) -> ir.Model:
    """A graph in ONNX's own notation, with these constants, its types inferred."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    for name, array in constants.items():
        value = ir.tensor(array, name=name)
        proto.graph.initializer.append(ir.serde.serialize_tensor(value))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def evaluate(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    """From ONNX's own evaluator, which computes in half where the graph says so."""
    answers: list[np.ndarray] = ReferenceEvaluator(ir.serde.serialize_model(model)).run(
        None, inputs
    )
    return answers


def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    """From ONNX Runtime."""
    session = onnxruntime.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    answers: list[np.ndarray] = session.run(None, inputs)
    return answers


def require_valid(model: ir.Model) -> None:
    proto = onnx.load_from_string(to_bytes(model))
    onnx.checker.check_model(proto, full_check=True)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 28, 28)).astype(np.float32)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["Add", "Mul", "Max", "Sub", "Relu", "Neg", "Transpose", "Output"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(
    STEPS,
    st.sampled_from(KINDS),
    st.booleans(),
    arrays(np.float32, (3, 3), elements=st.floats(-300, 300, width=32)),
)
def test_numbers_are_those_of_the_half_graph(
    steps: list[tuple[str, int, int]], kind: Kind, half_io: bool, x: np.ndarray
) -> None:
    """To the last bit, for operators that compute exactly but for one rounding."""
    values, outputs, lines = ["x", "w"], set(), []
    for number, (step, i, j) in enumerate(steps):
        one, other = values[i % len(values)], values[j % len(values)]
        if step == "Output":
            outputs.add(one)
            continue
        second = "" if step in ("Relu", "Neg", "Transpose") else f", {other}"
        lines.append(f"v{number} = {step}({one}{second})")
        values.append(f"v{number}")
    outputs = sorted({*outputs, values[-1]} - {"x", "w"})
    if not outputs:
        lines, outputs = [*lines, "v = Neg(x)"], ["v"]
    ends = ", ".join(f"float[3, 3] {name}" for name in outputs)
    weight = np.random.default_rng(1).normal(0, 2, (3, 3)).astype(np.float32)
    model = graph_of(f"g (float[3, 3] x) => ({ends}) {{ {'  '.join(lines)} }}", w=weight)
    typed = to_half(model, kind, half_io=half_io)
    emulated = emulate_half(typed)
    require_valid(emulated)
    assert {v.dtype for v in (*emulated.graph.inputs, *emulated.graph.outputs)} == {
        ir.DataType.FLOAT
    }
    given_x = x.astype(HALF[kind].numpy()) if half_io else x
    with np.errstate(over="ignore", invalid="ignore"):
        expected = evaluate(typed, x=given_x)
    for theirs, ours in zip(expected, run(emulated, x=x), strict=True):
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs.astype(np.float32), equal_nan=True)


@both
def test_onnx_runtime_rounds_at_every_optimisation_level(
    tiny_conversion: Conversion, kind: Kind, tmp_path: Path
) -> None:
    """No Cast to half precision is optimised away."""
    emulated = emulate_half(
        to_half(
            inline_functions(read_model(tiny_conversion.onnx)),
            kind,
            marks=tiny_conversion.metadata.dense_twin,
        )
    )
    half = int(HALF[kind])

    def roundings(proto: onnx.ModelProto) -> int:
        casts = (node for node in proto.graph.node if node.op_type == "Cast")
        return sum(onnx.helper.get_node_attr_value(node, "to") == half for node in casts)

    before = roundings(onnx.load_from_string(to_bytes(emulated)))
    levels = onnxruntime.GraphOptimizationLevel
    for level in (
        levels.ORT_DISABLE_ALL,
        levels.ORT_ENABLE_BASIC,
        levels.ORT_ENABLE_EXTENDED,
        levels.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(to_bytes(emulated), options)
        assert roundings(onnx.load(tmp_path / "optimised.onnx")) == before


@both
def test_the_tiny_model_differs_from_float32_by_its_roundings(
    tiny_conversion: Conversion, kind: Kind
) -> None:
    """Its dense twin, where nothing is selected: as far off as the half graph itself."""
    marks = tiny_conversion.metadata.dense_twin
    twin = dense_twin(inline_functions(read_model(tiny_conversion.onnx)), marks)
    typed = to_half(twin, kind, marks=tiny_conversion.metadata.dense_twin)
    (exact,), (half,) = evaluate(twin, images=images(2)), evaluate(typed, images=images(2))
    (found,) = run(emulate_half(typed), images=images(2))
    theirs, ours = np.abs(half - exact).max(), np.abs(found - exact).max()
    assert theirs / 4 < ours < 2 * theirs


@both
@pytest.mark.parametrize("half_io", [False, True])
def test_what_metadata_say_of_values_holds(
    tiny_conversion: Conversion, kind: Kind, half_io: bool
) -> None:
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
        half_io=half_io,
    )
    before = to_bytes(typed)
    emulated = emulate_half(typed)
    assert to_bytes(typed) == before
    names = {str(v.name) for node in typed.graph for v in node.outputs}
    assert names <= {str(v.name) for node in emulated.graph for v in node.outputs}
    assert emulated.metadata_props == typed.metadata_props
    assert [v.name for v in emulated.graph.outputs] == [v.name for v in typed.graph.outputs]
    kept = add_kept_outputs(emulated, tiny_conversion.metadata)
    require_valid(emulated)
    with open_runner("onnxruntime", to_bytes(emulated)) as runner:
        answers = runner.run(images(2))
    counts = tiny_conversion.metadata.keep_counts
    assert [answers[name].shape for name in kept] == [(2, count) for count in counts]
    twin = dense_twin(emulate_half(typed), tiny_conversion.metadata.dense_twin)
    require_valid(twin)


@both
def test_a_value_read_by_its_name_is_rounded(tiny_conversion: Conversion, kind: Kind) -> None:
    emulated = emulate_half(
        to_half(
            inline_functions(read_model(tiny_conversion.onnx)),
            kind,
            marks=tiny_conversion.metadata.dense_twin,
        )
    )
    names = ["blocks.0/Add", "blocks.1.mlp.fc1/MatMul", "blocks.2.norm1/LayerNormalization"]
    with open_runner("onnxruntime", to_bytes(with_outputs(emulated, names))) as runner:
        answers = runner.run(images(1))
    for name in names:
        assert np.array_equal(answers[name], answers[name].astype(HALF[kind].numpy()))


@pytest.mark.parametrize(
    ("kind", "given_value", "rounded"),
    [
        ("bf16", 1 + 2**-8, 1.0),  # ties go to the even one
        ("bf16", 1 + 3 * 2**-8, 1 + 2**-6),
        ("bf16", 1 + 2**-8 + 2**-16, 1 + 2**-7),
        ("bf16", 1e30, 1.0000000150474662e30),
        ("fp16", 1 + 2**-11, 1.0),
        ("fp16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("fp16", 65519.0, 65504.0),
        ("fp16", -65520.0, -np.inf),
        ("fp16", 2**-25, 0.0),
        ("fp16", 3 * 2**-25, 2**-23),  # half precision has smaller numbers than normal ones
    ],
)
def test_values_are_rounded_to_the_nearest(kind: Kind, given_value: float, rounded: float) -> None:
    text = f"g ({ELEMENT[kind]}[1] x) => ({ELEMENT[kind]}[1] y) {{ y = Identity(x) }}"
    (found,) = run(emulate_half(graph_of(text)), x=np.array([given_value], dtype=np.float32))
    expected = np.float32(rounded)
    if kind == "bf16" and given_value == 1e30:
        expected = np.array([1e30]).astype(HALF[kind].numpy()).astype(np.float32)[0]
    assert found[0] == expected


@both
def test_a_product_sums_in_float32_and_rounds_once(kind: Kind) -> None:
    """Terms that a sum in half precision would lose one by one."""
    element = ELEMENT[kind]
    text = f"g ({element}[1, 4097] x) => ({element}[1, 1] y) {{ y = MatMul(x, w) }}"
    ones = np.ones((4097, 1)).astype(HALF[kind].numpy())
    (found,) = run(emulate_half(graph_of(text, w=ones)), x=np.ones((1, 4097), dtype=np.float32))
    assert found.item() == 4096.0


@both
def test_constants_and_attributes_hold_their_numbers(kind: Kind) -> None:
    element, dtype = ELEMENT[kind], HALF[kind]
    text = f"""g ({element}[2] x, int64[1] n) => ({element}[2] y, {element}[2] z) {{
        c = Constant()
        d = ConstantOfShape(n)
        e = CastLike(n, x)
        a = Add(x, c)
        f = Add(a, d)
        y = Add(f, e)
        z = Add(x, k)
    }}"""
    tenth = np.array([0.1], dtype=np.float32).astype(dtype.numpy())
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    for node in proto.graph.node[:2]:
        value = ir.serde.serialize_tensor(ir.tensor(tenth, name="value"))
        node.attribute.append(onnx.helper.make_attribute("value", value))
    constant = ir.serde.serialize_tensor(ir.tensor(tenth, name="k"))
    proto.graph.initializer.append(constant)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
    emulated = emulate_half(model)
    require_valid(emulated)
    x = np.array([1.0, 2.0], dtype=np.float32)
    expected = evaluate(model, x=x.astype(dtype.numpy()), n=np.array([2]))
    for theirs, ours in zip(expected, run(emulated, x=x, n=np.array([2])), strict=True):
        assert np.array_equal(ours, theirs.astype(np.float32))


@both
def test_graphs_inside_nodes_are_rounded_too(kind: Kind) -> None:
    element = ELEMENT[kind]
    text = f"""g ({element}[2] x, int64 n, bool go) => ({element}[2] y) {{
        y = Loop(n, go, x)
            <body = step (int64 i, bool on, {element}[2] s) => (bool next, {element}[2] t)
                {{ next = Identity(on)  t = Mul(s, k) }}>
    }}"""
    model = graph_of(text, k=np.array([1.1]).astype(HALF[kind].numpy()))
    emulated = emulate_half(model)
    require_valid(emulated)
    x = np.array([1.0, 3.0], dtype=np.float32)
    loop = {"n": np.array(5), "go": np.array(True)}
    (found,) = run(emulated, x=x, **loop)
    expected = x.astype(HALF[kind].numpy())
    for _ in range(5):
        expected = expected * np.array([1.1]).astype(HALF[kind].numpy())
    assert np.array_equal(found, expected.astype(np.float32))


def test_a_graph_without_half_precision_comes_back_as_it_was(tiny_conversion: Conversion) -> None:
    model = inline_functions(read_model(tiny_conversion.onnx))
    assert not computes_in_half(model)
    assert to_bytes(emulate_half(model)) == to_bytes(model)


@both
def test_constants_that_are_only_stored_in_half_are_no_half_precision(kind: Kind) -> None:
    half = np.ones(2).astype(HALF[kind].numpy())
    stored = graph_of(
        "g (float[2] x) => (float[2] y) { c = Cast <to = 1> (k)  y = Add(x, c) }", k=half
    )
    assert not computes_in_half(stored)
    element = ELEMENT[kind]
    assert computes_in_half(graph_of(f"g ({element}[2] x) => (bool[2] y) {{ y = IsNaN(x) }}"))
    to = int(HALF[kind])
    assert computes_in_half(
        graph_of(f"g (float[2] x) => (bool[2] y) {{ h = Cast <to = {to}> (x)  y = IsNaN(h) }}")
    )
