"""int8: what becomes int8, that runtimes compute it so, that ranges and folding are chosen well."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.onnx_models import built, needs_rtx

from dynexport.bench import bench_model
from dynexport.calibration import Observation
from dynexport.calibration.held_out import HeldOut
from dynexport.calibration.running import observe, run_batches
from dynexport.calibration.sensitivity import Sensitivity, raise_layers, rank_layers
from dynexport.calibration.smooth import choose_factors, find_norms, fold
from dynexport.calibration.static_int8 import calibrate
from dynexport.check import check_graph
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.errors import ImageError, InputError, ModelFileError
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.graph.batch import infer_shapes
from dynexport.graph.linear_layers import find_linear_layers
from dynexport.graph.macs import count_macs
from dynexport.graph.quantise import WEIGHT_STEPS, quantise, quantise_weights, store_in_half
from dynexport.graph.twin import dense_twin
from dynexport.images import open_images, synthetic_images
from dynexport.precision import Precision, precision_of
from dynexport.precision.int8_dynamic import quantise_dynamically
from dynexport.runtimes import open_runner

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).standard_normal((8, 3, 28, 28)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_conversion: Conversion) -> ir.Model:
    return read_model(tiny_conversion.onnx)


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, as users give them."""
    path = tmp_path_factory.mktemp("images") / "some images.npz"
    np.savez(path, images=synthetic_images(40, 28))
    return path


def small_graph(text: str, **constants: np.ndarray) -> ir.Model:
    """A graph in ONNX's own notation, with these constants, its nodes named after their outputs."""
    header = '<ir_version: 10, opset_import: ["" : 20]> '
    proto = onnx.parser.parse_model(header + text)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def run(model: ir.Model, images: np.ndarray = IMAGES) -> np.ndarray:
    """The first output."""
    with open_runner("onnxruntime", to_bytes(model)) as runner:
        return next(iter(runner.run(images).values()))


def ranges_of(model: ir.Model, predictors: bool = False) -> dict[str, float]:
    """Thresholds that clip nothing on `IMAGES`."""
    layers = [p for p in find_linear_layers(model) if predictors or not p.ranks]
    seen = observe(model, {p.source for p in layers}, [IMAGES])
    return {p.node: seen[p.source].histogram.maximum for p in layers}


def scales(model: ir.Model, ending: str) -> dict[str, np.ndarray]:
    constants = model.graph.initializers.items()
    return {
        name: value.const_value.numpy()
        for name, value in constants
        if value.const_value is not None and name.endswith(ending)
    }


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_every_product_with_constant_weights_is_found(model: ir.Model) -> None:
    layers = find_linear_layers(model)
    assert Counter(p.name.rpartition(".")[2] for p in layers if not p.ranks) == Counter(
        {"q": 4, "k": 4, "v": 4, "proj": 4, "fc1": 4, "fc2": 4, "head": 1}
    )
    ranking = Counter(p.name.partition(".")[2][2:] for p in layers if p.ranks)
    assert ranking == Counter({"hidden": 3, "mean": 3, "local": 3, "narrow": 3, "score": 3})
    head = next(p for p in layers if p.name == "head")
    assert head.weights.shape == (64, 10)


def test_each_product_gets_a_pair_of_its_own(model: ir.Model) -> None:
    before, thresholds = to_bytes(model), ranges_of(model)
    typed = quantise(model, thresholds)
    assert to_bytes(model) == before
    onnx.checker.check_model(onnx.load_from_string(to_bytes(typed)), full_check=True)
    kinds = Counter(node.op_type for node in typed.graph)
    assert kinds["QuantizeLinear"] == len(thresholds)
    assert kinds["DequantizeLinear"] == 2 * len(thresholds)
    added = {"QuantizeLinear", "DequantizeLinear"}
    left = [(n.name, n.op_type) for n in typed.graph if n.op_type not in added]
    assert left == [(n.name, n.op_type) for n in model.graph]
    steps = scales(typed, "/x_scale")
    assert len({float(step) for step in steps.values()}) == len(steps)
    for node, threshold in thresholds.items():
        assert float(steps[f"{node}/x_scale"]) == pytest.approx(threshold / 127, rel=1e-6)
    assert precision_of(typed) == "int8"


def test_weights_have_seven_bits_and_a_scale_for_each_output(model: ir.Model) -> None:
    typed = quantise(model, ranges_of(model))
    layers = {p.node: p for p in find_linear_layers(model)}
    stored = scales(typed, "/weights_int8")
    assert stored
    for name, array in stored.items():
        node = name.removesuffix("/weights_int8")
        assert array.dtype == np.int8
        assert np.abs(array).max() == WEIGHT_STEPS
        scale = scales(typed, f"{node}/weights_scale")[f"{node}/weights_scale"]
        weights = layers[node].weights
        restored = (array.T if array.shape != weights.shape else array) * scale
        assert np.abs(restored - weights).max() <= 0.51 * scale.max()


def test_what_nothing_uses_any_more_is_gone(model: ir.Model) -> None:
    typed = quantise(model, ranges_of(model))
    assert all(value.uses() for value in typed.graph.initializers.values())
    assert len(to_bytes(typed)) < 0.6 * len(to_bytes(model))


def test_outputs_are_those_of_float32_but_for_rounding(model: ir.Model) -> None:
    """In the dense twin, where nothing is selected: numeric error alone."""
    twin = dense_twin(model.clone(), read_metadata("tiny", model).dense_twin)
    error = relative_error(run(quantise(twin, ranges_of(twin))), run(twin))
    assert 1e-4 < error < 0.08


def test_the_twin_of_a_quantised_graph_is_the_quantised_twin(model: ir.Model) -> None:
    marks = read_metadata("tiny", model).dense_twin
    thresholds = ranges_of(model)
    ours = dense_twin(quantise(model, thresholds), marks)
    theirs = quantise(dense_twin(model.clone(), marks), thresholds)
    assert np.array_equal(run(ours), run(theirs))
    assert count_macs(ours) == count_macs(theirs)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines fuse otherwise")
def test_onnx_runtime_computes_the_products_in_int8(model: ir.Model, tmp_path: Path) -> None:
    """It has a form of its own for each, but for the head's Gemm."""
    thresholds = ranges_of(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    content = to_bytes(quantise(model, thresholds))
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    left = onnx.load(tmp_path / "optimised.onnx").graph.node
    kinds = Counter(node.op_type for node in left)
    assert kinds["MatMulIntegerToFloat"] == len(thresholds) - 1
    assert kinds["DequantizeLinear"] <= 2


def test_sums_do_not_saturate() -> None:
    """All activations and weights at their largest: what 16 bits could not hold at 8 bits each."""
    weights = np.full((64, 16), 0.5, np.float32)
    text = "g (float[1, 4, 64] images) => (float[1, 4, 16] y) {y = MatMul(images, w)}"
    typed = quantise(small_graph(text, w=weights), {"y": 1.0})
    assert run(typed, np.ones((1, 4, 64), np.float32)) == pytest.approx(32.0, rel=1e-3)


def test_a_name_that_is_no_product_is_refused(model: ir.Model) -> None:
    for name in ("nothing", "blocks.0.norm1/LayerNormalization", "blocks.0.attn/MatMul"):
        with pytest.raises(ModelFileError, match=f"{name} is no product with constant weights"):
            quantise(model, {name: 1.0})


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    axis=st.sampled_from([0, 1]),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 2**16),
)
def test_quantised_weights_are_within_half_a_step(
    shape: tuple[int, int], axis: int, exponent: int, seed: int
) -> None:
    weights = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    weights *= np.float32(2.0**exponent)
    weights[seed % shape[0]] = 0.0
    steps, scale = quantise_weights(weights, axis)
    wide = np.expand_dims(scale, 1 - axis)
    assert steps.dtype == np.int8
    assert np.abs(steps).max() <= WEIGHT_STEPS
    assert (scale > 0).all()
    assert (np.abs(steps * wide - weights) <= 0.5001 * wide).all()


def test_large_constants_are_stored_in_half_and_nothing_changes_but_that(model: ir.Model) -> None:
    twin = dense_twin(model.clone(), read_metadata("tiny", model).dense_twin)
    typed, before, size = twin, run(twin), len(to_bytes(twin))
    count = store_in_half(typed)
    casts = [node for node in typed.graph if node.op_type == "Cast"]
    assert count == len(casts) > 0
    assert all(np.isfinite(array).all() for array in scales(typed, "/fp16").values())
    assert len(to_bytes(typed)) < 0.6 * size
    assert relative_error(run(typed), before) < 2e-3
    onnx.checker.check_model(onnx.load_from_string(to_bytes(typed)), full_check=True)


def test_what_half_precision_cannot_hold_is_not_stored_in_it() -> None:
    text = "g (float[1, 4, 64] images) => (float[1, 4, 64] y) {y = Add(images, w)}"
    large = small_graph(text, w=np.full((1, 64, 64), 1e30, np.float32)[:, :4].repeat(8, 0)[:1])
    assert store_in_half(large) == 0
    for spread in (1e30, 1e-9):
        graph = small_graph(text, w=np.full((1, 4, 64), 1.0, np.float32))
        wide = small_graph(
            "g (float[1, 40, 64] images) => (float[1, 40, 64] y) {y = Add(images, w)}",
            w=np.linspace(0.1, 1.0, 2560, dtype=np.float32).reshape(1, 40, 64) * np.float32(spread),
        )
        assert store_in_half(graph) == store_in_half(wide) == 0


def hard_norm() -> ir.Model:
    """A norm that one channel dominates, read by two layers, one through moved rows."""
    rng = np.random.default_rng(0)
    gamma = np.full(16, 0.1, np.float32)
    gamma[3] = 20.0
    text = """g (float[2, 8, 16] images) => (float[2, 8, 4] y, float[2, 3, 4] z) {
        n = LayerNormalization <axis = -1> (images, gamma, beta)
        y = MatMul(n, w)
        m = GatherND <batch_dims = 1> (n, rows)
        z = MatMul(m, v)
    }"""
    return small_graph(
        text,
        gamma=gamma,
        beta=np.full(16, 0.05, np.float32),
        rows=np.array([[[0], [5], [2]], [[7], [1], [1]]], np.int64),
        w=rng.standard_normal((16, 4)).astype(np.float32),
        v=rng.standard_normal((16, 4)).astype(np.float32),
    )


def seen_on(model: ir.Model, images: np.ndarray) -> dict[str, Observation]:
    return observe(model, {p.source for p in find_linear_layers(model)}, [images])


def test_folding_changes_nothing_but_rounding_and_takes_most_of_the_error() -> None:
    model = hard_norm()
    images = np.random.default_rng(1).standard_normal((2, 8, 16)).astype(np.float32)
    (norm,) = find_norms(model, find_linear_layers(model))
    assert [layer.node for layer in norm.layers] == ["y", "z"]
    assert norm.values == ("n", "m")
    seen = seen_on(model, images)
    chosen = choose_factors(norm, seen, seen)
    assert chosen is not None
    folded = fold(model, {norm.node: chosen[1]})
    assert run(folded, images) == pytest.approx(run(model, images), rel=1e-4, abs=1e-5)

    def error(graph: ir.Model) -> float:
        ranges = {
            p.node: seen_on(graph, images)[p.source].histogram.maximum
            for p in find_linear_layers(graph)
        }
        return relative_error(run(quantise(graph, ranges), images), run(model, images))

    assert error(folded) < 0.5 * error(model)


def test_a_norm_that_something_else_reads_is_left_alone() -> None:
    text = """g (float[2, 8, 16] images) => (float[2, 8, 16] y) {
        n = LayerNormalization <axis = -1> (images, gamma)
        p = MatMul(n, w)
        y = Add(p, n)
    }"""
    constants = {"gamma": np.ones(16, np.float32), "w": np.eye(16, dtype=np.float32)}
    model = small_graph(text, **constants)
    assert find_norms(model, find_linear_layers(model)) == ()


def test_folding_one_norm_leaves_another_that_shares_its_scale() -> None:
    text = """g (float[2, 8, 16] images) => (float[2, 8, 16] z) {
        n = LayerNormalization <axis = -1> (images, gamma)
        y = MatMul(n, w)
        m = LayerNormalization <axis = -1> (y, gamma)
        z = MatMul(m, w)
    }"""
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    model = small_graph(text, gamma=np.ones(16, np.float32), w=weights)
    images = np.random.default_rng(1).standard_normal((2, 8, 16)).astype(np.float32)
    factors = np.linspace(0.5, 2.0, 16, dtype=np.float32)
    folded = fold(model, {"n": factors})
    assert run(folded, images) == pytest.approx(run(model, images), rel=1e-4, abs=1e-4)
    names = {p.node: p.weights for p in find_linear_layers(folded)}
    assert np.array_equal(names["z"], weights)
    assert not np.array_equal(names["y"], weights)


def test_dynamic_int8_needs_no_ranges(model: ir.Model) -> None:
    layers = [p for p in find_linear_layers(model) if not p.ranks]
    before = to_bytes(model)
    typed = quantise_dynamically(model, layers)
    assert to_bytes(model) == before
    assert precision_of(typed) == "int8"
    assert read_metadata("typed", typed) == read_metadata("tiny", model)
    kinds = Counter(node.op_type for node in typed.graph)
    assert kinds["MatMulInteger"] == len(layers) - 1  # ONNX Runtime's quantiser takes no Gemm
    infer_shapes(typed)
    assert count_macs(typed) == count_macs(model)
    marks = read_metadata("tiny", model).dense_twin
    ours, theirs = dense_twin(typed.clone(), marks), dense_twin(model.clone(), marks)
    assert 1e-4 < relative_error(run(ours), run(theirs)) < 0.08


def test_short_batches_are_filled_up_and_cut(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = convert(Recipe(tiny_checkpoint, ratio=0.7, batch=4, output=tmp_path / "static.onnx"))
    static = read_model(made.onnx)
    parts = [part["logits"] for part in run_batches(static, [IMAGES[:4], IMAGES[4:5]])]
    assert [len(part) for part in parts] == [4, 1]
    (whole,) = (part["logits"] for part in run_batches(static, [IMAGES[4:]]))
    assert parts[1] == pytest.approx(whole[:1], rel=1e-5, abs=1e-5)


def test_calibration_chooses_and_reports(
    model: ir.Model, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing observed before
    metadata = read_metadata("tiny", model)
    images = open_images(npz, metadata.preprocessing)
    told: list[tuple[str, int, int]] = []
    typed, report = calibrate(
        model, metadata, images, on_progress=lambda what, done, of: told.append((what, done, of))
    )
    assert (report.images, report.held_out) == (30, 10)
    layers = [chosen.layer for chosen in report.ranges]
    expected = [p.name for p in find_linear_layers(model) if report.predictors or not p.ranks]
    assert layers == expected
    assert {chosen.method for chosen in report.ranges} <= {
        "min-max",
        "percentile",
        "entropy",
        "mse",
    }
    assert all(chosen.threshold > 0 for chosen in report.ranges)
    assert len(report.nearness.overlaps) == 3
    assert report.ranking == report.raised == ()
    observed = [(done, of) for what, done, of in told if "on 30 images" in what]
    assert observed[0] == (0, 30)
    assert observed[-1] == (30, 30)
    again, repeated = calibrate(
        model, metadata, images, on_progress=lambda what, done, of: told.append((what, done, of))
    )
    assert to_bytes(again) == to_bytes(typed)
    assert repeated == report


def test_only_the_methods_asked_for_are_used(model: ir.Model, npz: Path) -> None:
    metadata = read_metadata("tiny", model)
    images = open_images(npz, metadata.preprocessing)
    _, report = calibrate(model, metadata, images, methods=("mse",), on_progress=lambda *at: None)
    assert {chosen.method for chosen in report.ranges} == {"mse"}


def test_the_most_harmful_layers_are_raised_first(model: ir.Model) -> None:
    """One layer's range is far too small: it is the worst, and the first to go back."""
    metadata = read_metadata("tiny", model)
    thresholds = ranges_of(model)
    thresholds["blocks.1.mlp.fc1/MatMul"] /= 50
    layers = [p for p in find_linear_layers(model) if p.node in thresholds]
    held_out = HeldOut(model, metadata, [IMAGES])
    counted: list[tuple[str, int, int]] = []
    ranking = rank_layers(model, layers, thresholds, held_out, lambda *at: counted.append(at))
    assert ranking[0].layers == ("blocks.1.mlp.fc1",)
    assert any(set(place.layers) == {f"blocks.0.attn.{one}" for one in "qkv"} for place in ranking)
    assert counted[-1][1:] == (len(ranking), len(ranking))
    plain = held_out.judge(quantise(model, thresholds))
    assert plain.agreement < 1.0
    left, raised, near = raise_layers(model, layers, thresholds, ranking, held_out, 1.0)
    assert raised[0] == "blocks.1.mlp.fc1"
    assert near.agreement == 1.0
    assert left.keys() == thresholds.keys() - {p.node for p in layers if p.name in raised}


def test_nothing_is_raised_where_the_target_is_met(model: ir.Model) -> None:
    thresholds = ranges_of(model)
    layers = [p for p in find_linear_layers(model) if p.node in thresholds]
    held_out = HeldOut(model, read_metadata("tiny", model), [IMAGES])
    ranking = (Sensitivity((layers[0].name,), 1.0, 0.0),)
    left, raised, _ = raise_layers(model, layers, thresholds, ranking, held_out, 0.01)
    assert (left, raised) == (thresholds, ())


def test_all_raised_is_float32_again(model: ir.Model) -> None:
    """Where no int8 will do, the graph ends as it began."""
    metadata = read_metadata("tiny", model)
    thresholds = dict.fromkeys(ranges_of(model), 1e-6)
    layers = [p for p in find_linear_layers(model) if p.node in thresholds]
    held_out = HeldOut(model, metadata, [IMAGES])
    ranking = rank_layers(model, layers, thresholds, held_out, lambda *at: None)
    left, _, near = raise_layers(model, layers, thresholds, ranking, held_out, 1.0)
    assert near.agreement == 1.0
    assert len(left) < len(thresholds)


@needs_rtx
def test_int8_fp16_holds_no_pair_twice(tiny_checkpoint: Path, npz: Path, tmp_path: Path) -> None:
    """For GPUs, which need no pair for each product."""
    how = Precision("int8-fp16", calibration_data=npz, methods=("min-max",))
    graph = read_model(
        convert(Recipe(tiny_checkpoint, precision=how, output=tmp_path / "a.onnx")).onnx
    )
    pairs = Counter(
        (
            node.op_type,
            node.inputs[0],
            *(value.const_value.numpy().tobytes() for value in node.inputs[1:]),
        )
        for node in graph.graph
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    )
    assert set(pairs.values()) == {1}


@pytest.mark.parametrize("name", ["int8", "int8-fp16"])
def test_a_converted_file_builds_with_tensorrt(
    tiny_checkpoint: Path, npz: Path, tmp_path: Path, name: str
) -> None:
    result = convert(
        Recipe(
            tiny_checkpoint,
            ratio=0.7,
            batch=3,
            precision=Precision(name, calibration_data=npz),
            output=tmp_path / f"{name}.onnx",
        )
    )
    assert result.verification.passed
    assert result.precision.int8 is not None
    typed = read_model(result.onnx)
    facts = read_metadata(result.onnx, typed)
    assert facts.precision["name"] == name
    assert facts.precision["int8"]["images"] == 30
    measured = result.precision.rounding
    assert measured is not None
    assert facts.precision["rounding"] == dataclasses.asdict(measured)
    assert measured.images == 8 + facts.precision["int8"]["tried"]
    assert result.verification.errors["logits"].l2 < 1.2 * measured.outputs < 0.12
    assert result.verification.own is not None
    assert result.verification.own.errors["logits"].l2 < 1e-5
    assert facts.macs_dense == read_metadata("tiny", typed).macs_dense > facts.macs_sparse
    assert not check_graph(typed)
    assert built(onnx.load(result.onnx)).content


def test_a_dense_file_and_one_with_a_class_alone_are_quantised(
    tiny_checkpoint: Path, npz: Path, tmp_path: Path
) -> None:
    result = convert(
        Recipe(
            tiny_checkpoint,
            dense=True,
            precision=Precision("int8", calibration_data=npz, fallback_to="auto"),
            output=tmp_path / "dense.onnx",
        )
    )
    assert result.verification.passed
    report = result.precision.int8
    assert report is not None
    assert report.nearness.overlaps == ()
    assert report.ranking


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "int4"}, "unknown precision 'int4': did you mean 'int8'"),
        ({"name": "int8"}, "int8 is calibrated on images: give some with `calibration_data`"),
        ({"name": "fp16", "io": "fp16"}, "unknown I/O precision 'fp16'"),
        ({"name": "fp32", "io": "half"}, "fp32 keeps inputs and outputs in float32"),
        ({"name": "bf16", "io": "half"}, "bf16 keeps inputs and outputs in float32"),
        ({"name": "fp16", "fallback_to": "auto"}, "fp16 has no layers to raise back"),
        ({"name": "int8", "fallback_to": "fp16"}, "unknown fallback 'fp16': choose from auto"),
        ({"name": "fp16", "target_agreement": 1.5}, "agreement 1.5 is out of range"),
        ({"name": "fp16", "target_agreement": float("nan")}, "agreement nan is out of range"),
        ({"name": "fp16", "methods": ("max",)}, "unknown calibration method 'max'"),
        ({"name": "fp16", "methods": ()}, "no calibration method was given"),
    ],
)
def test_a_precision_that_makes_no_sense_is_refused(
    fields: dict[str, object], message: str, npz: Path
) -> None:
    if message.startswith(("unknown fallback",)):
        fields = {**fields, "calibration_data": npz}
    with pytest.raises(InputError, match=message):
        Precision(**fields)  # type: ignore[arg-type]


def test_too_few_images_are_refused_before_the_work(
    tiny_checkpoint: Path, npz: Path, tmp_path: Path
) -> None:
    precision = Precision("int8", calibration_data=npz, calibration_images=4)
    with pytest.raises(ImageError, match="at least 16"):
        convert(Recipe(tiny_checkpoint, ratio=0.7, precision=precision, output=tmp_path / "x.onnx"))
    assert not (tmp_path / "x.onnx").exists()


def test_dynamic_int8_makes_no_engine(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no operators for int8-dynamic"):
        convert(
            Recipe(
                tiny_checkpoint,
                precision="int8-dynamic",
                edition="tensorrt-rtx",
                output=tmp_path / "x.onnx",
            )
        )


def test_a_report_survives_the_metadata(model: ir.Model) -> None:
    facts = read_metadata("tiny", model)
    assert facts.precision["name"] == "fp32"
    assert dataclasses.replace(facts, precision={"name": "int8"}).precision["name"] == "int8"


def test_timing_bf16_on_a_cpu_is_refused_in_one_sentence(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bf16.onnx"
    convert(Recipe(tiny_checkpoint, ratio=0.7, batch=2, precision="bf16", output=path))
    with pytest.raises(InputError, match="is bf16, which onnxruntime does not compute on a CPU"):
        bench_model(path)
