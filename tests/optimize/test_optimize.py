"""Foreign ONNX files made lean: what is gained, that outputs stay, and that nothing is broken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made.foreign
import made.tiny
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from made.cache import Cache, digest_of_files
from made.foreign import FOREIGN, export_foreign
from made.small_graphs import small_graph
from made.tiny import Tiny, convert_tiny, typed
from onnx import helper

import dynexport.optimize
from dynexport import optimize_model
from dynexport.check import check_graph
from dynexport.cli import main
from dynexport.conversion import Conversion
from dynexport.errors import ImageError, InputError, ModelFileError
from dynexport.formats.onnx_file import read_model
from dynexport.graph.rule import Finding, Rule
from dynexport.optimize import Optimization

pytestmark = pytest.mark.slow

EXPORTS = [
    ("dynamicvit", "torchscript", 17, 2),
    ("dynamicvit", "torchscript", 20, None),
    ("dynamicvit", "dynamo", 20, 2),
    ("dynamicvit-spelled", "torchscript", 17, None),
    ("dynamicvit-spelled", "dynamo", 20, None),
    ("evit", "torchscript", 17, 1),
    ("evit", "dynamo", 20, None),
    ("dualpath", "torchscript", 17, 2),
    ("dualpath", "torchscript", 20, None),
    ("dualpath", "dynamo", 17, 2),
    ("dualpath-flat", "torchscript", 17, None),
    ("dualpath-flat", "torchscript", 17, 2),
    ("dualpath-flat", "dynamo", 20, 2),
]

GONE = {
    "dynamicvit": ("LogSoftmax", "Erf", "Range"),
    "evit": ("Erf", "Range"),
    "dualpath": ("LogSoftmax", "Erf", "ScatterND", "Range"),
}
"""Operators of which nothing is left, by model."""


@pytest.fixture
def exported(exports: Cache, tmp_path: Path) -> Callable[..., Path]:
    """The ONNX file of a foreign model, exported once."""

    def export(*model: Any) -> Path:
        """Its name, the exporter, the opset, the batch size."""
        path = tmp_path / "{}-{}-{}-{}.onnx".format(*model)
        key = digest_of_files((made.foreign.__file__, made.tiny.__file__), *model)
        path.write_bytes(exports.get(key, lambda: export_foreign(path, *model).read_bytes()))
        return path

    return export


def counted(path: Path | str) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load(str(path)).graph.node if n.op_type != "Constant")


def applied(result: Optimization) -> dict[str, int]:
    return {done.name: done.applied for done in result.passes if done.applied}


@pytest.mark.parametrize(("name", "exporter", "opset", "batch"), EXPORTS)
def test_a_foreign_model_becomes_lean(
    name: str,
    exporter: str,
    opset: int,
    batch: int | None,
    exported: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = exported(name, exporter, opset, batch)
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert not result.unchanged
    assert not [done for done in result.passes if done.left_out]
    assert result.error <= 2e-6
    assert result.ties == 0
    assert result.nodes[1] < result.nodes[0]
    assert result.macs is not None
    assert result.macs[1] < result.macs[0]
    family = name.split("-")[0]
    left = counted(result.output)
    assert not [operator for operator in GONE[family] if left[operator]]
    done = applied(result)
    expected = {
        "dynamicvit": {"sorts": 2, "log-softmax": 2},
        "evit": {"sorts": 2, "row-gathers": 4},
        "dualpath": {"scatters": 2, "log-softmax": 2, "row-gathers": 4},
    }[family]
    assert {key: done[key] for key in expected} == expected
    assert done.get("layer-norm", 0) == (7 if "spelled" in name else 0)
    assert not optimize_model(result.output, tmp_path / "again.onnx").passes
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "lean.onnx").read_bytes()


def promised(path: Path | str) -> list[Finding]:
    """What `check` says that `optimize` rewrites."""
    findings = check_graph(read_model(Path(path)))
    return [found for found in findings if found.fix.endswith("or run dynexport optimize")]


@pytest.mark.parametrize(
    ("export", "rules"),
    [
        (("dynamicvit-spelled", "torchscript", 17, None), {"full-sort": 2, "layer-norm": 7}),
        (("evit", "torchscript", 17, 1), {"full-sort": 2, "expanded-index": 4}),
        (("dualpath", "torchscript", 17, 2), {"expanded-index": 4}),
    ],
)
def test_what_check_says_that_optimize_rewrites_it_does(
    export: tuple[str, str, int, int | None],
    rules: dict[str, int],
    exported: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = exported(*export)
    assert Counter(found.rule for found in promised(path)) == rules
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert promised(result.output) == []
    left = Counter(found.rule for found in check_graph(read_model(Path(result.output))))
    assert not rules.keys() & left.keys()


@pytest.mark.parametrize("name", ["dynamicvit", "dualpath", "dualpath-flat"])
def test_both_exporters_come_to_the_same_graph(
    name: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever words an exporter has for a model of a fixed batch."""
    found = []
    for model, exporter, opset, batch in EXPORTS:
        if (model, batch) != (name, 2):
            continue
        path = exported(model, exporter, opset, batch)
        found.append(counted(optimize_model(path, tmp_path / f"{exporter}.onnx").output))
    assert len(found) == 2
    assert found[0] == found[1]


def test_every_model_here_is_tried() -> None:
    assert {name for name, *_ in EXPORTS} == set(FOREIGN)


CNN = """
    kernel = Constant <value = float[2, 3, 1, 1] {1, 2, 3, 4, 5, 6}> ()
    maps = Conv (images, kernel)
    y = Relu (maps)
"""
SORTED = "best, order = TopK <axis = 1> (scores, sixteen)\n"
LOGITS = """
    weight = Constant <value = float[3, 2] {0.3, -1.1, 0.7, 0.2, -0.5, 0.9}> ()
    zeroth = Constant <value_int = 0> ()
    product = MatMul (x, weight)
"""
FLAT = """
    best, kept = TopK <axis = 1> (scores, six)
    offsets = Constant <value = int64[2, 1] {0, STEP}> ()
    rows = Add (ROWS, offsets)
    index = Reshape (rows, row)
    long_x = Constant <value_ints = [32, 3]> ()
    all = Reshape (x, long_x)
    taken = Gather <axis = 0> (all, index)
    back = Constant <value_ints = [2, 6, 3]> ()
    y = Reshape (taken, back)
"""

ODD: dict[str, tuple[str, str]] = {
    "a CNN": (CNN, "float[2, 2, 4, 4] y"),
    "a whole sort": ("best, y = TopK <axis = 1> (scores, sixteen)", "int64[2, 16] y"),
    "a sort's values": ("y, z = TopK <axis = 1> (scores, sixteen)",
                        "float[2, 16] y, int64[2, 16] z"),
    "a softmax given out": (LOGITS + "y = LogSoftmax (product) score = Gather <axis = 2>"
                            " (y, zeroth) best, z = TopK <axis = 1> (score, six)",
                            "float[2, 16, 2] y, int64[2, 6] z"),
    "rows across images": (FLAT.replace("STEP", "3").replace("ROWS", "kept"), "float[2, 6, 3] y"),
    "rows too far": (FLAT.replace("STEP", "15").replace("ROWS", "kept"), "float[2, 6, 3] y"),
    "overlapping scatters": ("best, a = TopK <axis = 1> (scores, six)"
                             " u = Slice (scores, zero, six, one) n = Neg (u)"
                             " h = ScatterElements <axis = 1> (scores, a, u)"
                             " y = ScatterElements <axis = 1> (h, a, n)", "float[2, 16] y"),
    "a scatter that adds": (SORTED + "u = Exp (best) y = ScatterElements <axis = 1,"
                            ' reduction = "add"> (scores, order, u)', "float[2, 16] y"),
    "a norm over tokens": ("mean = ReduceMean (x, one) far = Sub (x, mean) square = Mul (far, far)"
                           " spread = ReduceMean (square, one) root = Sqrt (spread)"
                           " y = Div (far, root)", "float[2, 16, 3] y"),
    "an output of an output": ("y = Exp (x) z = Neg (y)", "float[2, 16, 3] y, float[2, 16, 3] z"),
    "noise": ("y = RandomNormalLike <seed = 1.0> (x)", "float[2, 16, 3] y"),
    "a loop": ("three = Constant <value_int = 3> () go = Constant <value = bool {1}> ()"
               " y = Loop (three, go, x) < body = round (int64 i, bool on, float[2, 16, 3] state)"
               " => (bool still, float[2, 16, 3] next)"
               " { still = Identity (on) next = Exp (state) } >", "float[2, 16, 3] y"),
}  # fmt: skip
ODD["a condition on images"] = (
    """
    top = ReduceMax <keepdims = 0> (images)
    limit = Constant <value_float = 1.0> ()
    bright = Greater (top, limit)
    y = If (bright) <
        then_branch = yes () => (float[2, 16, 3] picked) { picked = Neg (x) },
        else_branch = no () => (float[2, 16, 3] picked) { picked = Exp (x) }
    >
    """,
    "float[2, 16, 3] y",
)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_graph_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    body, outputs = ODD[name]
    needs_scores = "scores" in body
    model = small_graph(body, outputs)
    if not needs_scores:
        model = without_unread(model)
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    result = optimize_model(tmp_path / "odd.onnx", tmp_path / "lean.onnx")
    assert result.unchanged, result.passes
    assert (tmp_path / "lean.onnx").read_bytes() == (tmp_path / "odd.onnx").read_bytes()


def without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.serde.deserialize_model(model)
    ir.passes.common.RemoveUnusedNodesPass()(graph)
    return ir.serde.serialize_model(graph)


def test_rows_read_twice_are_gathered_twice(tmp_path: Path) -> None:
    """An index with duplicates is an index like any other."""
    twice = """
        three = Constant <value_ints = [3]> ()
        few = Slice (kept, zero, three, one)
        twice = Concat <axis = 1> (few, few)
        offsets ="""
    body = FLAT.replace("STEP", "16").replace("ROWS", "twice").replace("offsets =", twice, 1)
    (tmp_path / "twice.onnx").write_bytes(small_graph(body, "float[2, 6, 3] y").SerializeToString())
    result = optimize_model(tmp_path / "twice.onnx", tmp_path / "lean.onnx")
    assert result.error == 0
    assert applied(result)["row-gathers"] == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Our own models, converted once."""
    known: dict[str, Tiny] = {}

    def get(family: str) -> Tiny:
        if family not in known:
            ratios = (0.7, 0.5, 0.3)
            folder = tmp_path_factory.mktemp(family)
            known[family] = convert_tiny(folder, family, ratios, batch="2")
        return known[family]

    return get


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("deit", "fp32"),
        ("lvvit", "fp32"),
        ("swin", "fp32"),
        ("convnext", "fp32"),
        ("deit", "fp16"),
        ("deit", "int8"),
    ],
)
def test_our_own_models_have_nothing_left_to_gain(
    family: str, precision: str, tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    """With what dynexport says of itself taken off, so that they are looked at at all; outputs
    are compared by the command, and again here."""
    graph = typed(tiny(family), precision)
    graph.metadata_props.clear()
    ir.save(graph, tmp_path / "tiny.onnx")
    result = optimize_model(tmp_path / "tiny.onnx", tmp_path / "lean.onnx")
    assert not [done for done in result.passes if done.left_out]
    few = {"fp32": 1e-6, "fp16": 5e-3, "int8": 1e-4}[precision]
    assert result.error <= few
    assert not {"sorts", "row-gathers", "scatters", "log-softmax", "gelu"} & applied(result).keys()


def test_a_file_of_ours_is_left_as_it_is(tiny_conversion: Conversion, tmp_path: Path) -> None:
    result = optimize_model(tiny_conversion.onnx, tmp_path / "lean.onnx")
    assert result.unchanged
    assert "dynexport wrote it" in result.reason
    assert (tmp_path / "lean.onnx").read_bytes() == Path(tiny_conversion.onnx).read_bytes()


def save_model(path: Path, inputs: str, node: str, *, opset: int = 20) -> Path:
    text = f'<ir_version: 9, opset_import: ["": {opset}]> g ({inputs}) => (float[?] y) {{ {node} }}'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("inputs", "node", "reason"),
    [
        ("float[2, 3, 4, 4] a, float[2] b", "y = Add (a, b)", "it takes 2 inputs"),
        ("float[2, 3] a", "y = Exp (a)", "the shape [2, 3]"),
        ('float["b", 3, "h", "w"] a', "y = Exp (a)", "leaves height and width open: give"),
        ('float["b", 3, "h", 8] a', "y = Exp (a)", "leaves height open: give the size"),
        ('float["b", "c", 4, 4] a', "y = Exp (a)", "channels open, and no Conv tells how many"),
        ("float[2, 7, 4, 4] a", "y = Exp (a)", "7 channels"),
        ("uint8[2, 3, 4, 4] a", "y = Cast <to = 1> (a)", "float32 or float16"),
    ],
)
def test_what_cannot_be_fed_images_is_left_alone(
    inputs: str, node: str, reason: str, tmp_path: Path
) -> None:
    path = save_model(tmp_path / "odd.onnx", inputs, node)
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert result.unchanged
    assert reason in result.reason
    assert (tmp_path / "lean.onnx").read_bytes() == path.read_bytes()


def break_all(model: ir.Model) -> int:
    raise RuntimeError("no such pattern")


def make_invalid(model: ir.Model) -> int:
    next(iter(model.graph)).op_type = "NoSuchOperator"
    return 1


def change_outputs(model: ir.Model) -> int:
    for node in model.graph:
        if node.op_type == "Softmax":
            node.attributes["axis"] = ir.AttrInt64("axis", 1)
    return 1


def retype_outputs(model: ir.Model) -> int:
    (value,) = model.graph.outputs
    value.name = "other"
    return 1


@pytest.mark.parametrize("fault", [break_all, make_invalid, change_outputs, retype_outputs])
def test_a_pass_that_harms_is_left_out_and_named(
    fault: Callable[[ir.Model], int],
    exported: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty, rules = Rule("faulty", "harm done", apply=fault), dynexport.optimize.passes.RULES
    place = [rule.name for rule in rules].index("row-gathers")
    with_fault = (*rules[:place], faulty, *rules[place:])
    monkeypatch.setattr(dynexport.optimize.passes, "RULES", with_fault)
    path = exported("evit", "dynamo", 20, None)
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert [done.name for done in result.passes if done.left_out] == ["faulty"]
    assert {"sorts": 2, "row-gathers": 4}.items() <= applied(result).items()
    assert result.error <= 2e-6


STEEP = """
    steep = Constant <value_float = STEEPNESS> ()
    far = Mul (scores, steep)
    pair = Unsqueeze (far, two)
    back = Neg (pair)
    logits = Concat <axis = 2> (pair, back)
    zeroth = Constant <value_int = 0> ()
    chances = LogSoftmax (logits)
    ranked = Gather <axis = 2> (chances, zeroth)
    best, order = TopK <axis = 1> (ranked, six)
    column = Unsqueeze (order, two)
    y = GatherND <batch_dims = 1> (x, column)
"""
"""Two logits so far apart that the log-softmax rounds several scores to 0: then the lower index
comes first, where their difference still tells which is better."""


def test_a_swap_of_near_ties_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "ties.onnx"
    model = small_graph(STEEP.replace("STEEPNESS", "4.0"), "float[2, 6, 3] y")
    path.write_bytes(model.SerializeToString())
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert applied(result) == {"log-softmax": 1}
    assert 0 < result.ties < result.images / 2
    assert result.error <= 1e-6


def test_a_pass_that_swaps_ties_on_most_images_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ties.onnx"
    model = small_graph(STEEP.replace("STEEPNESS", "12.0"), "float[2, 6, 3] y")
    path.write_bytes(model.SerializeToString())
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert result.unchanged
    assert "near-tied tokens on 16 of 16 images" in result.passes[0].left_out


def test_images_are_read_from_a_folder_or_an_array(
    exported: Callable[..., Path], tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    path = exported("evit", "dynamo", 20, None)
    result = optimize_model(path, tmp_path / "lean.onnx", images=tmp_path / "images.npz")
    assert result.source == str(tmp_path / "images.npz")
    with pytest.raises(ImageError, match="does not exist"):
        optimize_model(path, tmp_path / "other.onnx", images=tmp_path / "none")
    assert not (tmp_path / "other.onnx").exists()


def test_weights_beside_the_file_come_into_it(
    exported: Callable[..., Path], tmp_path: Path
) -> None:
    model = onnx.load(str(exported("evit", "dynamo", 20, None)))
    onnx.save(model, str(tmp_path / "big.onnx"), save_as_external_data=True, size_threshold=0)
    result = optimize_model(tmp_path / "big.onnx", tmp_path / "out" / "lean.onnx")
    assert not result.unchanged
    again = optimize_model(result.output, tmp_path / "out" / "again.onnx")
    assert again.unchanged
    cnn = small_graph(CNN, "float[2, 2, 4, 4] y", tokens=False)
    onnx.save(cnn, str(tmp_path / "cnn.onnx"))
    assert optimize_model(tmp_path / "cnn.onnx", tmp_path / "out" / "cnn.onnx").unchanged


def test_weights_beside_a_file_that_stays_come_with_it(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "kernel")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "kernel"], ["y"])],
        "g",
        [helper.make_tensor_value_info("images", 1, [2, 3, 4, 4])],
        [helper.make_tensor_value_info("y", 1, [2, 2, 4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "cnn.onnx"), save_as_external_data=True, size_threshold=0)
    result = optimize_model(tmp_path / "cnn.onnx", tmp_path / "out" / "cnn.onnx")
    assert result.unchanged
    onnx.checker.check_model(result.output)
    assert onnx.load(result.output, load_external_data=False).graph.initializer[0].raw_data


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelFileError, match="not a complete ONNX file"):
        optimize_model(tmp_path / "text.onnx", tmp_path / "lean.onnx")
    model = small_graph(CNN, "float[2, 2, 4, 4] y", tokens=False)
    model.graph.node[-1].input[0] = "nobody"
    (tmp_path / "invalid.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="is no valid ONNX file"):
        optimize_model(tmp_path / "invalid.onnx", tmp_path / "lean.onnx")
    with pytest.raises(InputError, match="does not exist"):
        optimize_model(tmp_path / "none.onnx", tmp_path / "lean.onnx")
    assert not (tmp_path / "lean.onnx").exists()


def test_the_file_read_is_not_overwritten(exported: Callable[..., Path]) -> None:
    path = exported("evit", "dynamo", 20, None)
    with pytest.raises(InputError, match="would be overwritten"):
        optimize_model(path, path)
    with pytest.raises(InputError, match="does not end in"):
        optimize_model(path, path.with_suffix(".txt"))


def test_the_command_says_pass_by_pass_what_was_done(
    exported: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = exported("evit", "dynamo", 20, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["optimize", str(path)])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "full sorts cut to a TopK of what is read" in told
    assert "same outputs on 8 images" in told
    assert f"next: dynexport check {path.stem}-lean.onnx" in told
    with pytest.raises(SystemExit):
        main(["optimize", f"{path.stem}-lean.onnx", "-o", "again.onnx"])
    assert "unchanged: nothing to gain" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["optimize", "again.onnx", "-o", "third.onnx", "--json", "--quiet"])
    assert json.loads(capsys.readouterr().out)["unchanged"] is True


def test_answers_that_are_no_numbers_cannot_be_compared(tmp_path: Path) -> None:
    """NaN on both sides would agree with anything."""
    body = "nothing = Sub(scores, scores) odd = Div(nothing, nothing) y = Concat<axis=1>(odd, odd)"
    path = tmp_path / "odd.onnx"
    onnx.save(small_graph(body, "float[2, 32] y"), str(path))
    done = optimize_model(path, tmp_path / "lean.onnx")
    assert done.unchanged
    assert done.reason == "it cannot be compared: its y: 64 of 64 values are no finite numbers"
    assert (tmp_path / "lean.onnx").read_bytes() == path.read_bytes()
