"""What foreign files need before rules can look at them, and that nothing they compute is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from made.foreign import export_foreign
from made.small_graphs import TOKENS, answers, in_memory, operators, small_graph
from numpy.typing import NDArray
from onnx import TensorProto, helper

from dynexport import build_engine, check_model, optimize_model
from dynexport.check import check_graph
from dynexport.errors import InputError, ModelFileError
from dynexport.formats.onnx_file import read_model
from dynexport.graph.rule import Finding
from dynexport.graph.upgrade import upgrade_opset
from dynexport.runtimes import open_runner

Node = onnx.NodeProto


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path | str, images: NDArray[np.float32]) -> list[NDArray[np.generic]]:
    """What ONNX Runtime gives of a file, whatever its input is called."""
    model = onnx.load(str(path))
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["images" if each == name else each for each in node.input]
    model.graph.input[0].name = "images"
    with open_runner("onnxruntime", ir.serde.deserialize_model(model)) as runner:
        return list(runner.run(images).values())


def found(path: Path, rule: str) -> list[Finding]:
    return [each for each in check_graph(read_model(path)) if each.rule == rule]


# --- axes counted from the end ---

TURNED = "flat_scores = Transpose <perm = [-1, 0]> (scores) y = Mul (flat_scores, flat_scores)"


def test_axes_counted_from_the_end_are_written_as_onnx_has_them(tmp_path: Path) -> None:
    path = saved(small_graph(TURNED, "float[16, 2] y"), tmp_path / "turned.onnx")
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert not result.unchanged
    assert "in 1 Transpose" in result.changes[0]
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 4, 4)).astype(np.float32)
    (made,) = run(result.output, images)
    scores = images.reshape(2, 3, 16).sum(1)
    np.testing.assert_allclose(made, scores.T**2, rtol=1e-5)
    again = optimize_model(result.output, tmp_path / "again.onnx")
    assert again.unchanged
    assert again.changes == ()


def test_check_says_that_only_tensorrt_counts_from_the_end(tmp_path: Path) -> None:
    path = saved(small_graph(TURNED, "float[16, 2] y"), tmp_path / "turned.onnx")
    (finding,) = found(path, "negative-perm")
    assert "its perm [-1, 0] counts from the end" in finding.what
    assert "no other runtime loads the file" in finding.what
    assert finding.fix.startswith("write [1, 0]")
    assert finding.fix.endswith("or run dynexport optimize")


# --- older opsets ---


def of_opset(
    opset: int, nodes: list[Node], constants: dict[str, NDArray[np.generic]], outputs: str = "y"
) -> onnx.ModelProto:
    """Images (b, 3, 4, 4) through nodes of an old opset."""
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def one(operator: str, *inputs: str, outputs: str = "y", **attributes: object) -> list[Node]:
    return [helper.make_node(operator, ["images", *inputs], [*outputs], **attributes)]


LOW, HIGH = np.float32(-0.5), np.float32(0.5)
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])
TWICE = np.array([1, 1, 2, 2], np.float32)
CHANGED = {
    "a softmax over all but images": (one("Softmax", axis=1), {}),
    "a softmax without an axis": (one("Softmax"), {}),
    "a softmax over the last": (one("Softmax", axis=3), {}),
    "a softmax over the last, from the end": (one("LogSoftmax", axis=-1), {}),
    "a softmax over two": (one("LogSoftmax", axis=2), {}),
    "a sum": (one("ReduceSum", axes=[1, 2], keepdims=0), {}),
    "a squeeze": ([*one("ReduceMean", outputs="m", axes=[1]),
                   helper.make_node("Squeeze", ["m"], ["y"], axes=[1])], {}),
    "an unsqueeze": (one("Unsqueeze", axes=[1, 5]), {}),
    "a split": (one("Split", outputs="yz", axis=2, split=[1, 3]), {}),
    "a clip": (one("Clip", "low", "high"), {"low": LOW, "high": HIGH}),
    "a pad": (one("Pad", "pads"), {"pads": PADS}),
    "a resize": (one("Resize", "", "twice", mode="linear",
                     coordinate_transformation_mode="asymmetric"), {"twice": TWICE}),
}  # fmt: skip
CHANGED["a resize"][0][0].input[1] = "roi"
CHANGED["a resize"][1]["roi"] = np.zeros(0, np.float32)


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("name", CHANGED)
def test_what_an_operator_meant_before_13_it_means_after(name: str, opset: int) -> None:
    nodes, constants = CHANGED[name]
    outputs = "".join(nodes[-1].output)
    model = ir.serde.deserialize_model(of_opset(opset, nodes, constants, outputs))
    expected = answers(model, 3)
    raised = upgrade_opset(model)
    assert raised.opset_imports[""] == 13
    for before, after in zip(expected, answers(raised, 3), strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    assert operators(raised)["Flatten"] == (name in LONGER)


LONGER = ("a softmax over all but images", "a softmax without an axis", "a softmax over two")
"""That are over several axes, which the operator of today is not."""


def test_a_softmax_over_the_last_axis_of_an_unknown_rank_to_the_converter_stays_one() -> None:
    """It is flattened and put back by ONNX's converter, and rules would not know it."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Reshape", ["images", "shape"], ["same"]),
        helper.make_node("Softmax", ["same"], ["y"], axis=3),
    ]
    model = ir.serde.deserialize_model(of_opset(11, nodes, {}))
    expected = answers(model, 3)
    raised = upgrade_opset(model)
    assert operators(raised)["Flatten"] == 0
    np.testing.assert_allclose(answers(raised, 3)[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "opset"), [("dynamicvit", 11), ("evit", 12), ("dualpath", 11)])
def test_a_model_of_an_old_opset_becomes_lean(name: str, opset: int, tmp_path: Path) -> None:
    path = export_foreign(tmp_path / "old.onnx", name, "torchscript", opset, None)
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert result.changes == (f"opset {opset} raised to 13 by ONNX's converter",)
    assert result.opset[0] == opset
    assert result.nodes[1] < result.nodes[0] / 2
    images = np.random.default_rng(3).normal(0, 1, (3, 3, 28, 28)).astype(np.float32)
    np.testing.assert_allclose(run(result.output, images)[0], run(path, images)[0], atol=2e-6)
    today = export_foreign(tmp_path / "new.onnx", name, "torchscript", 17, None)
    expected = optimize_model(today, tmp_path / "new-lean.onnx")
    assert {done.name for done in expected.passes} <= {done.name for done in result.passes}


def test_what_the_converter_cannot_raise_is_left_alone_and_told(tmp_path: Path) -> None:
    model = of_opset(9, one("Crop", border=[1, 1, 1, 1]), {})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["b", 3, 2, 2]))
    result = optimize_model(saved(model, tmp_path / "old.onnx"), tmp_path / "lean.onnx")
    assert result.unchanged
    assert result.reason == (
        "it is of opset 9, the rules know 13 and later, and ONNX's converter does not bring it "
        "there (ONNX has no Crop any more): export it with opset 17 or later"
    )
    assert (tmp_path / "lean.onnx").read_bytes() == (tmp_path / "old.onnx").read_bytes()


# --- sizes left open ---


def open_sized(tmp_path: Path, sizes: list[int | str]) -> Path:
    kernel = onnx.numpy_helper.from_array(np.ones((2, 3, 2, 2), np.float32), "kernel")
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["c"], strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Reshape", ["c", "s"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "open",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 2, "oh", "ow"])],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return saved(model, tmp_path / "open.onnx")


@pytest.mark.parametrize(
    ("sizes", "img_size", "fixed"),
    [
        (["b", 3, "h", "w"], 8, [3, 8, 8]),
        (["b", "c", "h", "w"], "8x12", [3, 8, 12]),
        (["b", "c", 8, 8], None, [3, 8, 8]),
        (["b", 3, -1, -1], (6, 8), [3, 6, 8]),
        (["b", 3, 8, "w"], "8x4", [3, 8, 4]),
    ],
)
def test_sizes_left_open_are_fixed(
    sizes: list[int | str], img_size: str | int | None, fixed: list[int], tmp_path: Path
) -> None:
    path = open_sized(tmp_path, sizes)
    result = optimize_model(path, tmp_path / "lean.onnx", img_size=img_size)
    assert result.changes == (
        f"images of {' x '.join(map(str, fixed))}, which it left open, fixed",
    )
    lean = onnx.load(result.output)
    given = lean.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in given] == [0, *fixed]
    assert given[0].dim_param == "b"
    assert [node.op_type for node in lean.graph.node] == ["Conv", "Relu"]
    images = np.random.default_rng(0).normal(0, 1, (3, *fixed)).astype(np.float32)
    np.testing.assert_array_equal(run(path, images)[0], run(result.output, images)[0])


def test_a_size_is_only_for_a_file_that_leaves_it_open(tmp_path: Path) -> None:
    path = open_sized(tmp_path, ["b", 3, 8, 8])
    with pytest.raises(InputError, match="is of 8x8 pixels, not 12: leave out `img_size`"):
        optimize_model(path, tmp_path / "lean.onnx", img_size=12)
    with pytest.raises(InputError, match="image size 'wide' is not valid"):
        optimize_model(path, tmp_path / "lean.onnx", img_size="wide")
    assert not (tmp_path / "lean.onnx").exists()
    assert not optimize_model(path, tmp_path / "lean.onnx", img_size=8).changes


def test_a_size_it_cannot_be_run_at_is_not_the_exporters_fault(tmp_path: Path) -> None:
    path = open_sized(tmp_path, ["b", 3, "h", "w"])
    with pytest.raises(ModelFileError, match="1 may be no size it can be run at: give the one"):
        optimize_model(path, tmp_path / "lean.onnx", img_size=1)
    assert not (tmp_path / "lean.onnx").exists()


def test_check_names_the_option_that_fixes_sizes(tmp_path: Path) -> None:
    (finding,) = found(open_sized(tmp_path, ["b", 3, "h", "w"]), "open-dimension")
    assert "dynexport optimize --img-size" in finding.fix


# --- a batch open in name only ---

BAKED = """
    long = Constant <value_ints = [ROWS, 3]> ()
    rows = Reshape (x, long)
    larger = Exp (rows)
    whole = Constant <value_ints = [IMAGES, 16, 3]> ()
    y = Reshape (larger, whole)
    z = Exp (scores)
"""


def baked(tmp_path: Path, images: int) -> Path:
    body = BAKED.replace("ROWS", str(16 * images)).replace("IMAGES", str(images))
    body = TOKENS.replace("long", "long_tokens") + body
    model = small_graph(body, 'float["b", 16, 3] y, float["b", 16] z', batch="b", tokens=False)
    return saved(model, tmp_path / "baked.onnx")


@pytest.mark.parametrize(("images", "others"), [(1, "3"), (2, "1 or 3"), (8, "1 or 3")])
def test_a_batch_open_in_name_only_is_declared(images: int, others: str, tmp_path: Path) -> None:
    result = optimize_model(baked(tmp_path, images), tmp_path / "lean.onnx")
    assert result.changes[0].startswith(
        f"the batch, open in name only, declared as {images}: it runs there and not at {others}"
    )
    lean = onnx.load(result.output)
    for value in (*lean.graph.input, *lean.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == images
    assert found(tmp_path / "lean.onnx", "baked-batch") == []


@pytest.mark.parametrize("images", [1, 2])
def test_check_and_build_say_which_batch_it_is(images: int, tmp_path: Path) -> None:
    path = baked(tmp_path, images)
    (finding,) = found(path, "baked-batch")
    assert finding.severity == "refused"
    assert f"so the file runs at batch {images} alone" in finding.what
    assert "or run dynexport optimize" in finding.fix
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(InputError, match=rf"open in name only: .* Build it with `batch` {images},"):
        build_engine(path, edition="tensorrt-rtx", batches=["1:4:8"], output=tmp_path / "e.engine")
    assert not (tmp_path / "e.engine").exists()


BESIDE = {
    "rows of another image": "zeros = Constant <value = int64[1, 16, 3] {ZEROS}> ()"
    " y = GatherElements <axis = 1> (x, zeros)",
    "joined beside": "class_token = Constant <value = float[1, 1, 3] {1, 2, 3}> ()"
    " y = Concat <axis = 1> (class_token, x)",
    "added for two": "two_of = Constant <value = float[2, 1, 1] {1, 2}> () y = Add (x, two_of)",
}


@pytest.mark.parametrize(("name", "batch"), [*zip(BESIDE, (1, 1, 2), strict=True)])
def test_a_number_beside_the_open_batch_is_found(name: str, batch: int) -> None:
    body = BESIDE[name].replace("ZEROS", ", ".join("0" * 48))
    graph = in_memory(small_graph(body, "float[?, ?, 3] y", batch="b"))
    (finding,) = [each for each in check_graph(graph) if each.rule == "baked-batch"]
    assert f"at batch {batch} alone" in finding.what


MIXING = "batch_axis = Constant <value_ints = [0]> () m = ReduceMean (x, batch_axis) y = Sub (x, m)"


def test_answers_that_depend_on_other_images_are_no_open_batch(tmp_path: Path) -> None:
    body = MIXING.replace("Sub", "Add")
    path = saved(small_graph(body, 'float["b", 16, 3] y', batch="b"), tmp_path / "mixing.onnx")
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert "declared as 1: beside others an image has other answers than alone" in result.changes[0]


def test_an_open_batch_that_is_one_stays_open(tmp_path: Path) -> None:
    body = "y = Softmax <axis = 1> (scores)"
    path = saved(small_graph(body, 'float["b", 16] y', batch="b"), tmp_path / "open.onnx")
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert result.changes == ()
    assert found(path, "baked-batch") == []


# --- sizes of -1 ---


def test_a_batch_of_minus_one_is_an_open_one(tmp_path: Path) -> None:
    sort = "best, order = TopK <axis = 1> (scores, sixteen) y = Slice (best, zero, six, one)"
    named = saved(small_graph(sort, 'float["b", 6] y', batch="b"), tmp_path / "named.onnx")
    model = onnx.load(str(named))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    edited = saved(model, tmp_path / "edited.onnx")
    (first, *_) = read_model(edited).graph.inputs
    assert first.shape == ir.Shape(["images_0", 3, 4, 4])
    results = [
        optimize_model(path, tmp_path / f"{path.stem}-lean.onnx") for path in (named, edited)
    ]
    assert results[0].passes == results[1].passes
    assert results[0].passes
    assert results[0].nodes == results[1].nodes
    assert results[0].macs == results[1].macs
    checked = [check_model(path) for path in (named, edited)]
    assert checked[0].findings == checked[1].findings


# --- what ONNX Runtime does not take ---


def test_a_node_that_onnx_runtime_refuses_is_named_and_who_wrote_it(tmp_path: Path) -> None:
    model = small_graph("y = Transpose <perm = [0, 5]> (scores)", "float[2, 16] y")
    model.graph.node[-1].name = "/head/Transpose"
    model.producer_name = "pytorch"
    path = saved(model, tmp_path / "refused.onnx")
    with pytest.raises(ModelFileError) as refused:
        optimize_model(path, tmp_path / "lean.onnx")
    told = str(refused.value)
    assert told.startswith(f"{path}: ONNX Runtime cannot load the model: node /head/Transpose (Tra")
    assert "ONNXRuntimeError" not in told
    assert "TorchScript exporter wrote it so, and its dynamo exporter does not" in told
    assert not (tmp_path / "lean.onnx").exists()


def test_nothing_but_our_sentence_stands_on_stderr(tmp_path: Path) -> None:
    """ONNX Runtime logs an error that it raises as well, and onnx_ir what it cannot say."""
    path = baked(tmp_path, 1)
    line = [sys.executable, "-m", "dynexport", "optimize", str(path), "-o"]
    done = subprocess.run(
        [*line, str(tmp_path / "lean.onnx"), "--quiet"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "first: the batch, open in name only" in done.stdout
    model = onnx.load(str(path))
    model.graph.node[-2].name = "late"
    model.graph.node[-3].attribute[0].ints[:] = [7, 16, 3]  # of no batch that is tried
    saved(model, path)
    done = subprocess.run(
        [*line, str(tmp_path / "other.onnx"), "--quiet"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    told = "ONNX Runtime cannot run the model: node late (Reshape): The input tensor cannot be"
    assert done.stderr.startswith(f"error: {path}: {told}"), done.stderr


def test_nothing_but_the_result_stands_on_stdout(tmp_path: Path) -> None:
    """ONNX's checker prints a warning there, of operators it has no more."""
    model = of_opset(9, one("Crop", border=[1, 1, 1, 1]), {})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["b", 3, 2, 2]))
    path = saved(model, tmp_path / "old.onnx")
    line = [sys.executable, "-m", "dynexport", "optimize", str(path), "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout)["unchanged"] is True, done.stdout
    assert done.stderr == ""


def test_bytes_are_the_same_again(tmp_path: Path) -> None:
    path = baked(tmp_path, 1)
    for name in ("one.onnx", "two.onnx"):
        optimize_model(path, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
