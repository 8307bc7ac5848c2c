"""ONNX files that load and are wrong inside: one error, and what it says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from made.onnx_models import FLOAT, model_of, node
from onnx import AttributeProto, ModelProto, TensorProto, helper

from dynexport.check import check_model
from dynexport.cli import main
from dynexport.engine import build_engine
from dynexport.errors import InputError, ModelFileError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.inspection import inspect_file
from dynexport.optimize import optimize_model


def sound() -> ModelProto:
    """Two products and a Cast, with a function that is called once."""
    model = model_of(
        [
            node("MatMul", "x w", "y"),
            node("Cast", "y", "z", to=FLOAT),
            helper.make_node("Twice", ["z"], ["twice"], domain="com.microsoft"),
        ],
        [("x", (1, 4), FLOAT)],
        [("twice", (1, 3), FLOAT)],
        w=np.ones((4, 3), np.float32),
    )
    opset = [helper.make_opsetid("", 20)]
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("com.microsoft", "Twice", ["a"], ["b"], body, opset)
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _branch(model: ModelProto) -> None:
    attribute = model.graph.node[1].attribute.add(name="x", type=AttributeProto.GRAPH)
    attribute.g.node.append(helper.make_node("Relu", ["lost"], ["r"]))


def _weight(model: ModelProto) -> TensorProto:
    return model.graph.initializer[0]


def _as_text(model: ModelProto) -> None:
    _weight(model).doc_string = "text"
    content = model.SerializeToString().replace(b"text", b"\xff\xff\xff\xff")
    model.ParseFromString(content)


DAMAGES: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "an input that nothing gives": (
        lambda m: m.graph.node[0].input.__setitem__(0, "lost"),
        r"node 'n/y' \(MatMul\) reads 'lost', which nothing computes",
    ),
    "an output that nothing gives": (
        lambda m: setattr(m.graph.output[0], "name", "lost"),
        "the graph gives 'lost', which nothing computes",
    ),
    "in a subgraph": (_branch, r"node 'r' \(Relu\) reads 'lost', which nothing computes"),
    "in a function": (
        lambda m: m.functions[0].node[0].input.__setitem__(1, "lost"),
        r"node 'b' \(Add\) reads 'lost', which nothing computes",
    ),
    "a function's output": (
        lambda m: m.functions[0].output.__setitem__(0, "lost"),
        "function Twice gives 'lost', which nothing computes",
    ),
    "a name twice": (
        lambda m: m.graph.node[1].output.__setitem__(0, "y"),
        "the graph has two values named 'y'",
    ),
    "a name of a weight": (
        lambda m: m.graph.node[1].output.__setitem__(0, "w"),
        "the graph has two values named 'w'",
    ),
    "a weight without a name": (
        lambda m: setattr(_weight(m), "name", ""),
        "a weight has no name",
    ),
    "If without branches": (
        lambda m: setattr(m.graph.node[1], "op_type", "If"),
        r"node 'n/z' \(If\) lacks its attribute 'else_branch'",
    ),
    "Loop without a body": (
        lambda m: setattr(m.graph.node[1], "op_type", "Loop"),
        r"node 'n/z' \(Loop\) has 1 inputs, and its operator 2 to 2147483647",
    ),
    "too few inputs": (
        lambda m: m.graph.node[0].input.pop(),
        r"node 'n/y' \(MatMul\) has 1 inputs, and its operator 2",
    ),
    "an input left out": (
        lambda m: m.graph.node[0].input.__setitem__(0, ""),
        r"node 'n/y' \(MatMul\) leaves out an input that its operator needs",
    ),
    "no attribute": (
        lambda m: m.graph.node[1].ClearField("attribute"),
        r"node 'n/z' \(Cast\) lacks its attribute 'to'",
    ),
    "an attribute of another type": (
        lambda m: setattr(m.graph.node[1].attribute[0], "type", AttributeProto.FLOAT),
        r"node 'n/z' \(Cast\) has an attribute 'to' of another type than its operator's",
    ),
    "an attribute of no type": (
        lambda m: setattr(m.graph.node[1].attribute[0], "type", AttributeProto.UNDEFINED),
        r"node 'n/z' \(Cast\) has an attribute 'to' of no type that is known here",
    ),
    "an attribute twice": (
        lambda m: m.graph.node[1].attribute.append(m.graph.node[1].attribute[0]),
        r"node 'n/z' \(Cast\) has an attribute twice",
    ),
    "an attribute of a function's": (
        lambda m: setattr(m.graph.node[1].attribute[0], "ref_attr_name", "to"),
        r"node 'n/z' \(Cast\) takes its 'to' from a function, and is in none",
    ),
    "an operator of later": (
        lambda m: setattr(m.graph.node[0], "op_type", "RMSNormalization"),
        r"node 'n/y' \(RMSNormalization\) is none of ONNX's operators of version 20",
    ),
    "no version": (
        lambda m: m.opset_import.__delitem__(0),
        "it names no version of ONNX's operators but 0",
    ),
    "a function that calls itself": (
        lambda m: m.functions[0].node.add(
            op_type="Twice", domain="com.microsoft", input=["a"], output=["c"]
        ),
        "function Twice calls itself",
    ),
    "a function twice": (
        lambda m: m.functions.append(m.functions[0]),
        "it defines a function twice",
    ),
    "a negative size": (
        lambda m: _weight(m).dims.__setitem__(0, -4),
        r"the weight 'w' has a shape that none can have, \[-4, 3\]",
    ),
    "a huge size": (
        lambda m: _weight(m).dims.__setitem__(0, 2**40),
        r"the weight 'w' holds other values than its type and its shape, \[1099511627776, 3\]",
    ),
    "a huge size and no values": (
        lambda m: (_weight(m).ClearField("raw_data"), _weight(m).dims.__setitem__(0, 2**62)),
        r"the weight 'w' of shape \[4611686018427387904, 3\] holds no values",
    ),
    "many dimensions": (
        lambda m: _weight(m).dims.extend([1] * 40),
        r"the weight 'w' has a shape that none can have, \[4, 3, 1, 1, 1, 1, 1, 1, ...\]",
    ),
    "another type": (
        lambda m: setattr(_weight(m), "data_type", TensorProto.DOUBLE),
        r"the weight 'w' holds other values than its type and its shape, \[4, 3\], ask for",
    ),
    "no type": (
        lambda m: setattr(_weight(m), "data_type", 99),
        "the weight 'w' is of type 99, which is none of ONNX's",
    ),
    "texts that are none": (_as_text, r"it holds text that is no UTF-8, b'\\xff\\xff\\xff\\xff'"),
    "sparse weights": (
        lambda m: m.graph.sparse_initializer.add(dims=[3]),
        "it holds sparse weights, which no runtime here takes: write them in full",
    ),
}


def written(folder: Path, model: ModelProto) -> Path:
    path = folder / "wrong.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_wrong_inside_is_said(tmp_path: Path, case: str) -> None:
    model = sound()
    change, told = DAMAGES[case]
    change(model)
    path = written(tmp_path, model)
    with pytest.raises(ModelFileError, match=f"is no valid ONNX file: {told}") as error:
        read_model(path)
    assert str(error.value).endswith("; export it again")
    for command in (check_model, optimize_model, build_engine, inspect_file):
        with pytest.raises(ModelFileError, match=told):
            command(path)


def test_the_file_before_the_damages_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, sound())
    assert to_bytes(read_model(path))
    assert check_model(path).nodes == 3


def test_an_operator_nobody_knows_is_left_to_the_rules(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[1].op_type = "Nonsense"
    assert check_model(written(tmp_path, model)).nodes == 3


def _outside(model: ModelProto, **said: str) -> None:
    weight = _weight(model)
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    for key, value in said.items():
        weight.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"location": "lost.data"}, "lies in lost.data, which is not there: copy it beside"),
        ({"location": "../w.data"}, "lies in '../w.data', which is no file in the folder of"),
        ({"location": "/dev/zero"}, "lies in '/dev/zero', which is no file in the folder of"),
        ({"location": "pipe"}, "lies in 'pipe', which is no file in the folder of the model"),
        ({"location": "."}, "lies in '.', which is no file in the folder of the model"),
        ({}, "lies in '', which is no file in the folder of the model"),
        ({"location": "link"}, "lies in 'link', which is no file in the folder of the model"),
        ({"location": "w.data", "offset": "40"}, "lies in w.data, which does not hold it"),
        ({"location": "w.data", "offset": "-4"}, "lies in another file, and what is said of"),
        ({"location": "w.data", "length": "44"}, "lies in w.data, which does not hold it"),
        ({"location": "w.data", "length": "x"}, "lies in another file, and what is said of"),
        ({"location": "w.data\0"}, "lies in another file, and what is said of the place there"),
    ],
)
def test_data_in_another_file_that_lie(tmp_path: Path, said: dict[str, str], told: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "w.data").write_bytes(np.ones((4, 3), np.float32).tobytes())
    (folder / "link").symlink_to("../w.data")
    os.mkfifo(folder / "pipe")
    model = sound()
    _outside(model, **said)
    with pytest.raises(ModelFileError) as error:
        read_model(written(folder, model))
    assert f"the weight 'w' {told}" in str(error.value)


def test_data_in_another_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(np.full((4, 3), 7, np.float32).tobytes())
    model = sound()
    _outside(model, location="w.data")
    weight = read_model(written(tmp_path, model)).graph.initializers["w"].const_value
    assert weight is not None
    assert (weight.numpy() == 7).all()


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
@pytest.mark.parametrize("command", ["inspect", "check", "convert", "verify"])
def test_a_pipe_or_a_device_is_no_regular_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(SystemExit) as left:
        main([command, name])
    assert left.value.code == 2
    assert f"error: {name} is no regular file: expected " in capsys.readouterr().err


def test_no_pipe_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no regular file"):
        inspect_file(tmp_path / "pipe")


def test_nothing_is_said_before_the_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = sound()
    model.graph.node[0].input[0] = "lost"
    with pytest.raises(SystemExit):
        main(["check", str(written(tmp_path, model)), "-q"])
    assert capfd.readouterr().err.count("\n") == 1


def test_shapes_that_contradict_each_other_are_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = sound()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    check_model(written(tmp_path, model))
    assert capfd.readouterr().err == ""
    onnx.checker.check_model(model)
