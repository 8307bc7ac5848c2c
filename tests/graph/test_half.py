"""Typed graphs: which values are in half precision, that nothing else changed, and how far off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tensorrt_rtx as trt
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from dynexport.conversion import Conversion
from dynexport.errors import ModelFileError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.emulation import emulate_half
from dynexport.graph.functions import inline_functions
from dynexport.graph.half import HALF, Kind, overflowing_constants, to_half
from dynexport.graph.selection import add_kept_outputs
from dynexport.graph.twin import dense_twin
from dynexport.runtimes import open_runner

KINDS = ("fp16", "bf16")
TOLERANCE = {"fp16": 2e-3, "bf16": 2e-2}
"""Accepted error of the tiny model's logits, relative to the largest: a few roundings."""

both = pytest.mark.parametrize("kind", KINDS)


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 28, 28)).astype(np.float32)


def evaluate(model: ir.Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name, from ONNX's own evaluator, which knows bf16; types must be as declared."""
    names = [str(value.name) for value in model.graph.outputs]
    answers = ReferenceEvaluator(ir.serde.serialize_model(model)).run(names, inputs)
    return dict(zip(names, answers, strict=True))


def require_types(model: ir.Model) -> None:
    """The file is valid ONNX, and every value has the type that follows from the inputs."""
    proto = onnx.load_from_string(to_bytes(model))
    onnx.checker.check_model(proto, full_check=True)
    declared = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    found = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    found |= {constant.name: constant.data_type for constant in proto.graph.initializer}
    assert declared.items() <= found.items()


def casts(model: ir.Model) -> list[str]:
    return [str(node.name) for node in model.graph if node.op_type == "Cast"]


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    """By name, of every value."""
    produced = [value for node in model.graph for value in node.outputs]
    values = [*model.graph.inputs, *model.graph.initializers.values(), *produced]
    return {str(value.name): value.dtype for value in values}


def small_graph(
    text: str, constants: Mapping[str, np.ndarray] | None = None, opset: int = 20
) -> ir.Model:
    """A graph in ONNX's own notation, with these constants, its types inferred."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}]> '
    proto = onnx.parser.parse_model(header + text)
    for name, array in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


@both
def test_every_value_has_the_type_the_graph_says(tiny_conversion: Conversion, kind: Kind) -> None:
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
    )
    require_types(typed)
    found = types(typed)
    others = {ir.DataType.INT64, ir.DataType.BOOL}
    assert set(found.values()) == {HALF[kind], ir.DataType.FLOAT, *others}
    single = {name for name, dtype in found.items() if dtype == ir.DataType.FLOAT}
    conv = {f"patch_embed.proj{end}" for end in ("/Conv", ".weight", ".bias")}
    head = {"norm/LayerNormalization/fp32", "head.weight", "head.bias"}
    ends = {"images", "logits"} | (conv | head if kind == "bf16" else set())
    scores = [
        f"score_predictor.{stage}{end}"
        for stage in range(3)
        for end in (
            "/Gelu_2/fp32",
            ".score/constant",
            ".score/MatMul",
            "/ReduceMax",
            "/Add_1",
            "/Where",
            "/TopK",
        )
    ]
    assert single == ends | set(scores) | {"score_predictor.0/constant"}


ENDS = {
    "fp16": ("images/fp16", "logits/fp32"),
    "bf16": ("patch_embed.proj/Conv/bf16", "norm/LayerNormalization/fp32"),
}
"""The first and the last Cast of the tiny model: convolutions in bf16 came with opset 22, and the
classes of bf16 are told apart in float32."""

SCORES = [f"score_predictor.{stage}/Gelu_2/fp32" for stage in range(3)]


@both
def test_casts_stand_at_the_ends_and_before_each_score(
    tiny_conversion: Conversion, kind: Kind
) -> None:
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
    )
    first, last = ENDS[kind]
    assert casts(typed) == [first, *SCORES, last]


@both
def test_nothing_else_changes(tiny_conversion: Conversion, kind: Kind) -> None:
    model = inline_functions(read_model(tiny_conversion.onnx))
    before = to_bytes(model)
    typed = to_half(model, kind, marks=tiny_conversion.metadata.dense_twin)
    assert to_bytes(model) == before
    assert typed.metadata_props == model.metadata_props
    assert list(typed.graph.initializers) == list(model.graph.initializers)
    assert typed.opset_imports == model.opset_imports
    nodes = [node for node in typed.graph if node.op_type != "Cast"]
    for ours, theirs in zip(nodes, model.graph, strict=True):
        assert (ours.name, ours.op_type) == (theirs.name, theirs.op_type)
        assert ours.attributes == theirs.attributes
        shapes = [value.shape for value in theirs.outputs]
        assert [value.shape for value in ours.outputs] == shapes
    added = set(types(typed)) - set(types(model))
    renamed = {"logits/fp16"} if kind == "fp16" else set()
    assert added == {name for name in casts(typed) if name != "logits/fp32"} | renamed
    assert len(to_bytes(typed)) < 0.65 * len(before)


@both
def test_outputs_are_those_of_float32_but_for_rounding(
    tiny_conversion: Conversion, kind: Kind
) -> None:
    """The dense twin, where nothing is selected: numeric error alone."""
    marks = tiny_conversion.metadata.dense_twin
    twin = dense_twin(inline_functions(read_model(tiny_conversion.onnx)), marks)
    images = random_images(2)
    expected = evaluate(twin, images=images)["logits"]
    found = evaluate(to_half(twin, kind, marks=tiny_conversion.metadata.dense_twin), images=images)[
        "logits"
    ]
    assert found.dtype == np.float32
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < error < TOLERANCE[kind]


def test_onnx_runtime_keeps_the_same_tokens(tiny_conversion: Conversion) -> None:
    """Where it keeps others, they are few; where it does not, logits agree."""
    graphs = [inline_functions(read_model(tiny_conversion.onnx))]
    graphs.append(to_half(graphs[0], "fp16", marks=tiny_conversion.metadata.dense_twin))
    answers = []
    for graph in graphs:
        names = add_kept_outputs(graph, tiny_conversion.metadata)
        with open_runner("onnxruntime", to_bytes(graph)) as runner:
            answers.append(runner.run(random_images(5)))
    single, half = answers
    same = np.ones(5, dtype=bool)
    for name in names:
        pairs = list(zip(single[name], half[name], strict=True))
        shares = [np.intersect1d(a, b).size / a.size for a, b in pairs]
        assert min(shares) > 0.9
        same &= np.array(shares) == 1
    assert same.sum() >= 3
    errors = np.abs(single["logits"] - half["logits"])[same]
    assert errors.max() < TOLERANCE["fp16"] * np.abs(single["logits"]).max()


@both
def test_the_dense_twin_of_the_typed_graph_is_the_typed_dense_twin(
    tiny_conversion: Conversion, kind: Kind
) -> None:
    marks = tiny_conversion.metadata.dense_twin
    twin = dense_twin(
        to_half(
            inline_functions(read_model(tiny_conversion.onnx)),
            kind,
            marks=tiny_conversion.metadata.dense_twin,
        ),
        marks,
    )
    other = to_half(
        dense_twin(inline_functions(read_model(tiny_conversion.onnx)), marks),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
    )
    require_types(twin)
    assert casts(twin) == casts(other)
    assert len(casts(twin)) == 2
    images = random_images(1)
    ours, theirs = (evaluate(graph, images=images)["logits"] for graph in (twin, other))
    assert np.array_equal(ours, theirs)


@both
def test_kept_outputs_can_be_added_to_the_typed_graph(
    tiny_conversion: Conversion, kind: Kind
) -> None:
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
    )
    names = add_kept_outputs(typed, tiny_conversion.metadata)
    require_types(typed)
    answers = evaluate(typed, images=random_images(1))
    counts = tiny_conversion.metadata.keep_counts
    assert [answers[name].shape for name in names] == [(1, count) for count in counts]
    assert all(answers[name].dtype == np.int64 for name in names)


SUM = "g (float[1, 2, 3] x) => (float[1, 2, 3] y) { a = Add(x, c)  y = Relu(a) }"


def test_a_constant_beyond_half_stays_float32_with_its_node() -> None:
    big = np.array([1e5, -1.0, 7e4], dtype=np.float32)
    model = small_graph(SUM, {"c": big})
    assert overflowing_constants(model, "fp16") == ("c",)
    assert overflowing_constants(model, "bf16") == ()
    typed = to_half(model, "fp16")
    require_types(typed)
    assert types(typed)["c"] == types(typed)["a"] == ir.DataType.FLOAT
    assert casts(typed) == ["a/fp16", "y/fp32"]
    assert np.array_equal(typed.graph.initializers["c"].const_value.numpy(), big)
    assert types(to_half(model, "bf16"))["c"] == ir.DataType.BFLOAT16


@pytest.mark.parametrize(("largest", "fits"), [(65504.0, True), (65519.0, True), (65520.0, False)])
def test_what_rounds_to_a_finite_value_fits(largest: float, fits: bool) -> None:
    model = small_graph(SUM, {"c": np.array([largest], dtype=np.float32)})
    assert (overflowing_constants(model, "fp16") == ()) == fits
    assert (types(to_half(model, "fp16"))["c"] == ir.DataType.FLOAT16) == fits


@both
def test_infinities_and_tiny_values_are_no_reason_to_stay_float32(kind: Kind) -> None:
    mask = np.array([-np.inf, 0.0, 1e-7], dtype=np.float32)
    text = """g (float[1, 2, 3] x) => (float[1, 2, 3] y)
    { a = Add(x, c)  y = Softmax <axis = -1> (a) }"""
    typed = to_half(small_graph(text, {"c": mask}), kind)
    assert types(typed)["c"] == HALF[kind]
    found = evaluate(typed, x=np.zeros((1, 2, 3), dtype=np.float32))["y"]
    assert (found[..., 0] == 0).all()
    assert found.sum(axis=-1) == pytest.approx(1, abs=1e-2)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_mask_of_minus_1e9_hides_in_half_too() -> None:
    text = "g (float[2, 3] x) => (float[2, 3] y) { a = Add(x, c)  y = Softmax <axis = -1> (a) }"
    typed = to_half(small_graph(text, {"c": np.array([0, -1e9, 0], dtype=np.float32)}), "fp16")
    found = evaluate(typed, x=np.zeros((2, 3), dtype=np.float32))["y"]
    assert found.tolist() == [[0.5, 0.0, 0.5]] * 2


def test_a_constant_that_both_want_is_there_twice() -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y, float[2, 1] best)
    { h = Mul(x, w)  s = Mul(h, w)  best, i = TopK(s, k)  y = Relu(h) }"""
    constants = {"w": np.array([0.1, 0.2, 0.3], dtype=np.float32), "k": np.array([1])}
    typed = to_half(small_graph(text, constants), "fp16")
    require_types(typed)
    assert types(typed)["w"] == ir.DataType.FLOAT
    assert types(typed)["w/fp16"] == ir.DataType.FLOAT16
    assert casts(typed) == ["x/fp16", "h/fp32", "y/fp32"]


@pytest.mark.parametrize(("opset", "dtype"), [(20, ir.DataType.FLOAT), (22, ir.DataType.BFLOAT16)])
def test_an_operator_without_bf16_stays_float32(opset: int, dtype: ir.DataType) -> None:
    text = "g (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) { c = Conv(x, w)  y = Relu(c) }"
    model = small_graph(text, {"w": np.ones((1, 1, 3, 3), dtype=np.float32)}, opset)
    typed = to_half(model, "bf16")
    require_types(typed)
    assert types(typed)["w"] == types(typed)["c" if opset == 20 else "x/bf16"] == dtype


@pytest.mark.parametrize(
    ("marks", "single"), [({"a": "b"}, "ab"), ({"h": "a", "a": "b"}, "hab"), ({"gone": "b"}, "b")]
)
def test_both_ends_of_a_mark_have_one_type(marks: dict[str, str], single: str) -> None:
    """b takes a's place in the dense twin, and is made of a constant that half cannot hold."""
    text = """g (float[2, 3] x) => (float[2, 3] y)
    { h = Relu(x)  a = Neg(h)  b = Add(x, c)  z = Mul(a, b)  y = Relu(z) }"""
    model = small_graph(text, {"c": np.array([1e6], dtype=np.float32)})
    typed = to_half(model, "fp16", marks=marks)
    found = types(typed)
    assert "".join(name for name in "hab" if found[name] == ir.DataType.FLOAT) == single
    require_types(typed if "gone" in marks else dense_twin(typed, marks))


@pytest.mark.parametrize("there", ["x", "y"])
def test_a_mark_may_speak_of_an_input_or_an_output(there: str) -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z)
    { y = Relu(x)  a = Neg(y)  b = Neg(a)  z = Relu(b) }"""
    model = small_graph(text)
    marks = {"a": there}
    typed = to_half(model, "fp16", marks=marks)
    assert types(typed)["a"] == types(typed)[there] == ir.DataType.FLOAT
    require_types(dense_twin(typed, marks))


@pytest.mark.parametrize("there", ["x", "y"])
def test_a_mark_binds_inputs_and_outputs_in_half_too(there: str) -> None:
    """a stays float32 because of its constant; then the file's end cannot stand in for it."""
    text = """g (float[1, 2, 3] x) => (float[1, 2, 3] y, float[1, 2, 3] z)
    { y = Relu(x)  a = Add(y, c)  b = Neg(a)  z = Relu(b) }"""
    for constant, fits in ((1.0, True), (1e6, False)):
        model = small_graph(text, {"c": np.array([constant], dtype=np.float32)})
        marks = {"a": there}
        if fits:
            typed = to_half(model, "fp16", marks=marks, half_io=True)
            assert types(typed)["a"] == types(typed)[there] == ir.DataType.FLOAT16
            require_types(dense_twin(typed, marks))
        else:
            with pytest.raises(ModelFileError, match=f"dense twin {there} .*takes the place of a"):
                to_half(model, "fp16", marks=marks, half_io=True)


@both
def test_a_half_graph_is_not_converted_again(tiny_conversion: Conversion, kind: Kind) -> None:
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
    )
    with pytest.raises(ModelFileError, match=r"in half precision already .*give the float32 file"):
        to_half(typed, "fp16", marks=tiny_conversion.metadata.dense_twin)


def test_a_graph_without_types_is_refused() -> None:
    model = small_graph(SUM, {"c": np.ones(3, dtype=np.float32)})
    model.graph[0].outputs[0].type = None
    with pytest.raises(ModelFileError, match="does not say of which type a is"):
        to_half(model, "fp16")


@both
@pytest.mark.parametrize("half_io", [False, True])
def test_tensorrt_rtx_builds_the_typed_graph(
    tiny_conversion: Conversion, kind: Kind, half_io: bool
) -> None:
    """Strongly typed, with no GPU: every product but those that rank is in half."""
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        kind,
        marks=tiny_conversion.metadata.dense_twin,
        half_io=half_io,
    )
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(to_bytes(typed)), parser.get_error(0).desc()
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    products = [each for each in layers if each.type == trt.LayerType.MATRIX_MULTIPLY]
    found = Counter(layer.get_output(0).dtype for layer in products)
    half = trt.float16 if kind == "fp16" else trt.bfloat16
    single = 4 if kind == "bf16" and not half_io else 3
    assert found == {trt.float32: single, half: len(products) - single}
    ends = {network.get_input(0).dtype, network.get_output(0).dtype}
    assert ends == {half if half_io else trt.float32}
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 3, 28, 28), (3, 3, 28, 28), (5, 3, 28, 28))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


@both
def test_inputs_and_outputs_in_half(tiny_conversion: Conversion, kind: Kind) -> None:
    """No Cast at the ends, but before the convolution that bf16 has not; kept_* stay int64."""
    model = inline_functions(read_model(tiny_conversion.onnx))
    names = add_kept_outputs(model, tiny_conversion.metadata)
    typed = to_half(model, kind, marks=tiny_conversion.metadata.dense_twin, half_io=True)
    require_types(typed)
    assert {v.dtype for v in typed.graph.inputs} == {HALF[kind]}
    found = {str(value.name): value.dtype for value in typed.graph.outputs}
    assert found == {"logits": HALF[kind]} | dict.fromkeys(names, ir.DataType.INT64)
    conv = ["images/fp32", "patch_embed.proj/Conv/bf16"] if kind == "bf16" else []
    assert casts(typed) == [*conv, *SCORES]


@both
def test_half_inputs_and_outputs_change_the_ends_alone(
    tiny_conversion: Conversion, kind: Kind
) -> None:
    """ONNX Runtime gives, of images that half holds, the same logits, rounded."""
    model = inline_functions(read_model(tiny_conversion.onnx))
    images = random_images(3).astype(HALF[kind].numpy()).astype(np.float32)
    answers = []
    for half_io in (False, True):
        typed = emulate_half(
            to_half(model, kind, marks=tiny_conversion.metadata.dense_twin, half_io=half_io)
        )
        with open_runner("onnxruntime", to_bytes(typed)) as runner:
            answers.append(runner.run(images)["logits"])
    whole, half = answers
    if kind == "fp16":
        assert np.array_equal(whole, half)
    else:  # the classes are told apart in float32 only where they are given so
        assert np.abs(whole - half).max() < TOLERANCE["bf16"] * np.abs(whole).max()


def test_onnx_runtime_takes_images_in_half(tiny_conversion: Conversion) -> None:
    """A runner is given float32, whatever the file takes; its answers are the file's."""
    typed = to_half(
        inline_functions(read_model(tiny_conversion.onnx)),
        "fp16",
        marks=tiny_conversion.metadata.dense_twin,
        half_io=True,
    )
    images = random_images(3)
    with open_runner("onnxruntime", to_bytes(typed)) as runner:
        answers = runner.run(images)
    assert answers["logits"].dtype == np.float16
    with open_runner("onnxruntime", tiny_conversion.onnx) as runner:
        expected = runner.run(images)["logits"]
    error = np.abs(answers["logits"].astype(np.float32) - expected).max()
    assert 0 < error < 0.1 * np.abs(expected).max()


def test_onnx_runtime_says_that_it_takes_no_images_in_bf16() -> None:
    text = "g (bfloat16[2, 3] images) => (float[2, 3] y) { y = Cast <to = 1> (images) }"
    with pytest.raises(ModelFileError, match=r"bf16 is one.*inputs and outputs in float32"):
        open_runner("onnxruntime", to_bytes(small_graph(text)))


def test_an_output_of_a_float32_node_is_cast_to_half() -> None:
    """And whoever wants it in float32 still has it so, under another name."""
    text = """g (float[1, 2, 3] x) => (float[1, 2, 3] y, float[1, 2, 3] z)
    { y = Add(x, c)  z = Relu(y) }"""
    model = small_graph(text, {"c": np.array([1e5], dtype=np.float32)})
    single = [node.name for node in model.graph]
    typed = to_half(model, "fp16", single=single, half_io=True)
    require_types(typed)
    assert casts(typed) == ["x/fp32", "y/fp16", "z/fp16"]
    ends = [(value.name, value.dtype) for value in typed.graph.outputs]
    assert ends == [("y", ir.DataType.FLOAT16), ("z", ir.DataType.FLOAT16)]
    assert typed.graph[-2].inputs[0].name == "y/fp32"


def test_nodes_may_be_kept_in_float32_by_name(tiny_conversion: Conversion) -> None:
    model = inline_functions(read_model(tiny_conversion.onnx))
    name = "blocks.2.norm1/LayerNormalization"
    typed = to_half(model, "fp16", marks=tiny_conversion.metadata.dense_twin, single=[name])
    require_types(typed)
    (node,) = (node for node in typed.graph if node.name == name)
    assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT}
    base = casts(to_half(model, "fp16", marks=tiny_conversion.metadata.dense_twin))
    assert sorted(set(casts(typed)) - set(base)) == [
        "blocks.2.norm1/LayerNormalization/fp16",
        "score_predictor.1/GatherND/fp32",
    ]
    with pytest.raises(ModelFileError, match=r"no node 'blocks.9/Add' to keep in float32"):
        to_half(
            model, "fp16", marks=tiny_conversion.metadata.dense_twin, single=[name, "blocks.9/Add"]
        )


@both
@pytest.mark.parametrize("half_io", [False, True])
def test_the_dense_twin_of_a_graph_with_nodes_in_float32(
    tiny_conversion: Conversion, kind: Kind, half_io: bool
) -> None:
    """A gather in float32 takes the value that stands in for it along, and the other way round."""
    model = inline_functions(read_model(tiny_conversion.onnx))
    marks = tiny_conversion.metadata.dense_twin
    (gather, add), *_ = marks.items()
    for one, other in ((gather, add), (add, gather)):
        typed = to_half(
            model, kind, marks=tiny_conversion.metadata.dense_twin, single=[one], half_io=half_io
        )
        assert types(typed)[one] == types(typed)[other] == ir.DataType.FLOAT
        require_types(dense_twin(typed, marks))


def test_classes_of_bf16_are_told_apart_in_float32() -> None:
    """Two logits that differ by less than a step of bf16."""
    text = "g (float[1, 2] x) => (float[1, 2] y) { h = Relu(x)  s = MatMul(h, w)  y = Add(s, b) }"
    constants = {"w": np.eye(2, dtype=np.float32), "b": np.array([10, 10.01], dtype=np.float32)}
    model = small_graph(text, constants)
    x = np.zeros((1, 2), dtype=np.float32)
    assert casts(to_half(model, "bf16")) == ["x/bf16", "h/fp32"]
    assert casts(to_half(model, "fp16")) == ["x/fp16", "y/fp32"]
    found = evaluate(to_half(model, "bf16"), x=x)["y"]
    assert found.argmax() == 1
    tied = evaluate(to_half(model, "bf16", half_io=True), x=x.astype(HALF["bf16"].numpy()))["y"]
    assert tied[0, 0] == tied[0, 1]


def test_a_node_that_holds_a_graph_stays_float32_and_so_does_what_it_sees() -> None:
    text = """g (float[2, 3] x, int64 n, bool go) => (float[2, 3] y) {
        h = Relu(x)
        a = Neg(h)
        r = Loop(n, go, a)
            <body = step (int64 i, bool on, float[2, 3] s) => (bool next, float[2, 3] t)
                { next = Identity(on)  t = Add(s, h) }>
        y = Relu(r)
    }"""
    typed = to_half(small_graph(text), "fp16")
    require_types(typed)
    assert types(typed)["r"] == ir.DataType.FLOAT
    assert casts(typed) == ["x/fp16", "h/fp32", "a/fp32", "r/fp16", "y/fp32"]
    fed = {"x": np.ones((2, 3), dtype=np.float32), "n": np.array(3), "go": np.array(True)}
    assert evaluate(typed, **fed)["y"].tolist() == [[2.0] * 3] * 2


def test_a_half_input_that_only_an_inner_graph_sees_is_cast_before_all() -> None:
    text = """g (float[2, 3] x, int64 n, bool go, float[2, 3] z) => (float[2, 3] y) {
        y = Loop(n, go, z)
            <body = step (int64 i, bool on, float[2, 3] s) => (bool next, float[2, 3] t)
                { next = Identity(on)  t = Add(s, x) }>
    }"""
    typed = to_half(small_graph(text), "fp16", half_io=True)
    require_types(typed)
    assert sorted(casts(typed)) == ["x/fp32", "y/fp16", "z/fp32"]
    ones = np.ones((2, 3), dtype=np.float16)
    found = evaluate(typed, x=ones, z=ones, n=np.array(3), go=np.array(True))["y"]
    assert found.dtype == np.float16
    assert found.tolist() == [[4.0] * 3] * 2


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["Add", "Max", "Relu", "Softmax", "Pin", "TopK", "Weigh", "Output"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=12,
)


def build_graph(steps: list[tuple[str, int, int]]) -> ir.Model:
    """Each step makes a value (4, 6) of earlier ones; some pin, some rank, some are outputs."""
    values, outputs, lines = ["x"], [], []
    for number, (step, i, j) in enumerate(steps):
        one, other, name = values[i % len(values)], values[j % len(values)], f"v{number}"
        if step == "Output":
            outputs.append(one)
            continue
        if step == "TopK":
            lines.append(f"s{number}, i{number} = TopK({one}, k)")
            outputs.append(f"i{number}")
            continue
        second = {"Add": other, "Max": other, "Pin": "pin", "Weigh": "weight"}.get(step)
        operator = {"Pin": "Add", "Weigh": "MatMul"}.get(step, step)
        lines.append(f"{name} = {operator}({one}{f', {second}' if second else ''})")
        values.append(name)
    outputs = sorted({*outputs, values[-1]} - {"x"}) or ["v"]
    lines += ["v = Relu(x)"] if outputs == ["v"] else []
    typed = [f"{'int64[4, 2]' if o[0] == 'i' else 'float[4, 6]'} {o}" for o in outputs]
    text = f"g (float[4, 6] x) => ({', '.join(typed)}) {{ {'  '.join(lines)} }}"
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.4, (6, 6)).astype(np.float32)
    pin = np.array([1e30, 0, 0, 0, 0, 0], dtype=np.float32)
    return small_graph(text, {"k": np.array([2]), "pin": pin, "weight": weight})


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from(KINDS), st.booleans(), st.integers(0, 2**12))
def test_any_graph_is_typed_with_one_cast_a_value(
    steps: list[tuple[str, int, int]], kind: Kind, half_io: bool, chosen: int
) -> None:
    model = build_graph(steps)
    single = [node.name for place, node in enumerate(model.graph) if chosen >> place & 1]
    typed = to_half(model, kind, single=single, half_io=half_io)
    require_types(typed)
    sources = [node.inputs[0] for node in typed.graph if node.op_type == "Cast"]
    assert len(set(sources)) == len(sources)
    assert not any(value.is_initializer() for value in sources)
    makers = [value.producer() for value in sources if value.producer()]
    assert not any(maker.op_type == "Cast" for maker in makers)
    float_ends = HALF[kind] if half_io else ir.DataType.FLOAT
    for ours, theirs in (
        (typed.graph.inputs, model.graph.inputs),
        (typed.graph.outputs, model.graph.outputs),
    ):
        assert [value.name for value in ours] == [value.name for value in theirs]
        expected = {ir.DataType.FLOAT: float_ends, ir.DataType.INT64: ir.DataType.INT64}
        assert [value.dtype for value in ours] == [expected[value.dtype] for value in theirs]
    for node in typed.graph:
        if node.op_type == "TopK" or node.name in single:
            assert node.inputs[0].dtype == ir.DataType.FLOAT
