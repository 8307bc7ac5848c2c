"""Tools of others as witnesses that what we write is lean, valid and editable.

NVIDIA's onnx-graphsurgeon folds, cleans up and sorts every exported family and precision: it must
find nothing to do, and what it writes must answer alike. ONNX's own checker and strict shape
inference, onnxslim and Polygraphy see the same files.
"""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxslim
import polygraphy.tools
import pytest
from made.tiny import TINY, Tiny, convert_tiny, take_batches, write
from numpy.typing import NDArray
from onnxruntime.quantization.preprocess import quant_pre_process

from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.emulation import computes_in_half, emulate_half
from dynexport.graph.fuse import TARGETS, fuse_operators
from dynexport.images import synthetic_images
from dynexport.precision import Precision, convert_precision, precisions
from dynexport.runtimes import open_runner

pytestmark = [pytest.mark.witness, pytest.mark.thorough, pytest.mark.slow]

STORED = "/Cast"
"""Ends the names of the nodes that turn back to float32 what int8 files store in half precision."""


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A family's float32 graph of standard operators, dynamic batch."""
    folder = tmp_path_factory.mktemp(request.param)
    return convert_tiny(folder, request.param, (0.7, 0.5, 0.3), batch="1:3:5")


@pytest.fixture(scope="module", params=precisions())
def files(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, onnx.ModelProto]:
    """What `convert` writes of it in a precision: for each target, in float32 of one batch size
    too; one file where both targets are the same."""
    steps = tiny.metadata.preprocessing
    drawn = tmp_path_factory.mktemp("images") / "drawn.npz"
    np.savez(drawn, images=synthetic_images(16, steps.img_size, seed=1))
    precision = Precision(request.param, calibration_data=drawn, methods=("min-max",))
    sizes = {"dynamic": tiny, "static": take_batches(tiny, "2")}
    if request.param != "fp32":
        sizes.pop("static")
    made = {}
    for size, each in sizes.items():
        images = precision.open_images(steps)
        pictures = each.bundle.inputs(steps)
        graph, _ = convert_precision(each.graph.clone(), each.metadata, precision, images, pictures)
        made[f"tensorrt, {size}"] = ir.serde.serialize_model(graph)
        if fuse_operators(graph):
            made[f"any, {size}"] = ir.serde.serialize_model(graph)
    assert len(TARGETS) == 2
    return made


def answers(model: onnx.ModelProto) -> list[NDArray[np.generic]]:
    """Of ONNX Runtime on two drawn images; bf16, which it does not run on a CPU, by float32
    operators that round as bf16 does."""
    graph = ir.serde.deserialize_model(copy.deepcopy(model))
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    images = np.random.default_rng(0).normal(0, 1, (2, 3, size, size)).astype(np.float32)
    has_bf16 = any(value.dtype == ir.DataType.BFLOAT16 for n in graph.graph for value in n.outputs)
    if has_bf16:
        assert computes_in_half(graph)
        graph = emulate_half(graph)
    with open_runner("onnxruntime", to_bytes(graph)) as runner:
        return list(runner.run(images).values())


def require_equal(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    for ours, theirs in zip(answers(one), answers(other), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def through_graphsurgeon(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = gs.import_onnx(copy.deepcopy(model))
    with redirect_stdout(io.StringIO()) as printed:
        graph.fold_constants().cleanup().toposort()
    assert "[E]" not in printed.getvalue(), printed.getvalue()
    return gs.export_onnx(graph)


def described(nodes: Sequence[onnx.NodeProto]) -> dict[str, tuple[object, ...]]:
    """By name: operator, ends and attributes."""
    return {
        node.name: (
            node.domain,
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            sorted(onnx.helper.printable_attribute(each) for each in node.attribute),
        )
        for node in nodes
    }


def constants(model: onnx.ModelProto) -> dict[str, tuple[object, ...]]:
    return {
        each.name: (each.data_type, tuple(each.dims), onnx.numpy_helper.to_array(each).tobytes())
        for each in model.graph.initializer
    }


def test_graphsurgeon_finds_nothing_to_fold_or_remove(files: dict[str, onnx.ModelProto]) -> None:
    """But what int8 files store in half precision, whose Casts every runtime folds when it loads
    them: graphsurgeon does it too, and the file would grow."""
    for name, model in files.items():
        back = through_graphsurgeon(model)
        stored = {node.name for node in model.graph.node if node.name.endswith(STORED)}
        stored &= {node.name for node in model.graph.node if node.input[0] in constants(model)}
        ours, theirs = described(model.graph.node), described(back.graph.node)
        assert theirs == {each: ours[each] for each in ours if each not in stored}, name
        kept, left = constants(model), constants(back)
        assert len(left) == len(kept), name
        assert {each: left[each] for each in left if each in kept} == {
            each: kept[each] for each in kept if each in left
        }, name
        assert len(kept.keys() - left.keys()) == len(stored), name
        require_equal(model, back)


def test_functions_survive_graphsurgeon(tiny: Tiny) -> None:
    """Those of target any, whose bodies' nodes have names, each its own."""
    graph = tiny.graph.clone()
    assert fuse_operators(graph)
    model = ir.serde.serialize_model(graph)
    back = through_graphsurgeon(model)
    ours, theirs = ({f.name: made_in(f) for f in each.functions} for each in (model, back))
    assert ours == theirs
    assert ours
    for each in model.functions:
        assert len({node.name for node in each.node} - {""}) == len(each.node)
    called = Counter(node.op_type for node in back.graph.node if node.domain == "com.microsoft")
    assert called.keys() == ours.keys()


def made_in(function: onnx.FunctionProto) -> dict[str, tuple[object, ...]]:
    """What a body computes, by its first name. graphsurgeon makes the Constants anew: without a
    name, their numbers as a tensor."""
    nodes = [copy.deepcopy(node) for node in function.node]
    for node in nodes:
        node.name = node.output[0]
        if node.op_type == "Constant":
            held = onnx.helper.get_attribute_value(node.attribute[0])
            if isinstance(held, onnx.TensorProto):
                held = onnx.numpy_helper.to_array(held).tolist()
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value_ints", held))
    return described(nodes)


def test_onnx_finds_it_valid(files: dict[str, onnx.ModelProto]) -> None:
    """The full checker, and strict shape inference with data propagated: all values have shapes."""
    for name, model in files.items():
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
        known = {each.name: each.type.tensor_type for each in inferred.graph.value_info}
        known |= {each.name: each.type.tensor_type for each in inferred.graph.output}
        for node in model.graph.node:
            for value in filter(None, node.output):
                assert known[value].HasField("shape"), (name, value)


def test_nothing_is_computed_twice(files: dict[str, onnx.ModelProto]) -> None:
    """No two nodes of one operator on equal inputs, be it by constants that are equal."""
    for name, model in files.items():
        content = constants(model)
        seen = Counter(
            (kind, tuple(content.get(end, end) for end in ends), str(attributes))
            for _, kind, ends, _, attributes in described(model.graph.node).values()
        )
        assert not [each[0] for each, count in seen.items() if count > 1], name


def test_onnxslim_leaves_no_fewer_nodes(files: dict[str, onnx.ModelProto]) -> None:
    """But for the Casts above; where it leaves more it has made a Gemm and two Reshapes of a
    MatMul and an Add."""
    for name, model in files.items():
        slim = onnxslim.slim(copy.deepcopy(model))
        stored = sum(
            node.name.endswith(STORED) and node.input[0] in constants(model)
            for node in model.graph.node
        )
        assert len(slim.graph.node) >= len(model.graph.node) - stored, name


@pytest.fixture
def written(tiny: Tiny, tmp_path: Path) -> Path:
    """The file for target any, its bundle beside it."""
    graph = tiny.graph.clone()
    fuse_operators(graph)
    return write(tmp_path, graph, tiny.bundle)


def run_polygraphy(*words: object) -> str:
    """What its command line prints, which must end well."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        code = polygraphy.tools.main(list(map(str, words)))
    assert code == 0, printed.getvalue()
    return printed.getvalue()


def test_polygraphy_runs_and_inspects_it(tiny: Tiny, written: Path, tmp_path: Path) -> None:
    """On the bundle's images its outputs are PyTorch's, to rounding."""
    from polygraphy.comparator import RunResults
    from polygraphy.json import save_json

    images = tiny.bundle.inputs(tiny.metadata.preprocessing)[:3]
    inputs, outputs = tmp_path / "inputs.json", tmp_path / "outputs.json"
    save_json([{"images": images}], str(inputs))
    run_polygraphy("run", written, "--onnxrt", "--load-inputs", inputs, "--save-outputs", outputs)
    ((_, (found,)),) = RunResults.load(str(outputs)).items()
    for name, expected in tiny.bundle.outputs.items():
        np.testing.assert_allclose(found[name], expected[:3], rtol=0, atol=1e-4)
    assert f"---- {len(tiny.graph.graph.outputs)} Graph Output(s) ----" in run_polygraphy(
        "inspect", "model", written
    )


def test_onnxruntimes_quantiser_prepares_it(written: Path, tmp_path: Path) -> None:
    """Without its own symbolic shapes, which take GatherND's batch axes for none (1.32): ours are
    in the file."""
    prepared = tmp_path / "prepared.onnx"
    quant_pre_process(str(written), str(prepared), skip_symbolic_shape=True)
    require_equal(onnx.load(written), onnx.load(prepared))
