"""Engines: built for real with TensorRT-RTX, which needs no GPU; and what never reaches one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from made.onnx_models import skip_with_a_gpu
from onnx import TensorProto, helper, numpy_helper

from dynexport.artifact import find_artifact
from dynexport.bench import bench_model
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.engine import EngineBuild, build_engine, open_engine, read_sidecar
from dynexport.engine import open as opening
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import (
    BuildError,
    DeviceError,
    DynexportError,
    EngineError,
    InputError,
    MissingExtraError,
)
from dynexport.formats.onnx_file import read_model
from dynexport.graph.functions import inline_functions
from dynexport.inspection import inspect_file
from dynexport.runtimes import cuda
from dynexport.runtimes.tensorrt import EDITIONS, builder, find_edition
from dynexport.runtimes.tensorrt.editions import fits
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.verify import verify_model

pytestmark = pytest.mark.slow

RTX = "tensorrt-rtx"


class Stop(BaseException):
    """What a handler of signals raises."""


@pytest.fixture(scope="module")
def built(tiny_conversion: Conversion, tmp_path_factory: pytest.TempPathFactory) -> EngineBuild:
    folder = tmp_path_factory.mktemp("engine")
    for file in (tiny_conversion.onnx, tiny_conversion.reference):
        shutil.copy(file, folder)
    return build_engine(folder / "tiny.onnx", edition=RTX, output=folder / "tiny.engine")


@pytest.fixture
def engine(built: EngineBuild, tmp_path: Path) -> Path:
    """An engine with its sidecar, and the ONNX file and bundle it was built from, to be changed."""
    for file in Path(built.engine).parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / "tiny.engine"


def test_the_sidecar_says_what_the_engine_is(built: EngineBuild, tiny_conversion: Any) -> None:
    facts = built.facts
    content = Path(built.engine).read_bytes()
    assert facts.flavour == RTX
    assert facts.version == EDITIONS[RTX].version()
    assert (facts.gpu, facts.capabilities) == (None, ("8.0", "8.6", "8.9", "12.0+"))
    assert (facts.precision, facts.batches, facts.input_shape) == ("fp32", ("1:3:5",), (3, 28, 28))
    assert facts.engine_sha256 == hashlib.sha256(content).hexdigest()
    assert built.size_bytes == len(content) > 0
    assert facts.onnx == "tiny.onnx"
    assert facts.metadata == tiny_conversion.metadata
    assert facts.seconds > 0
    assert Sidecar.load(Path(built.engine)) == facts


def test_layers_name_the_nodes_they_were_made_of(built: EngineBuild, tiny_conversion: Any) -> None:
    graph = inline_functions(read_model(tiny_conversion.onnx)).graph
    names = {node.name for node in graph}
    made_of = {node for layer in built.facts.layers for node in layer.nodes}
    assert len(built.facts.layers) > 20
    assert made_of <= names
    assert {node.name for node in graph if node.op_type in ("MatMul", "TopK")} <= made_of


@pytest.mark.parametrize(("precision", "fused"), [("fp32", 1), ("fp16", 4)])
def test_every_attention_is_one_layer_in_half_precision(
    tiny_checkpoint: Path, tmp_path: Path, precision: str, fused: int
) -> None:
    """TensorRT-RTX has none for float32, but where the last block asks for one row."""
    onnx_file = convert(
        Recipe(tiny_checkpoint, precision=precision, batch=8, output=tmp_path / "a.onnx")
    ).onnx
    facts = build_engine(onnx_file, output=tmp_path / "a.engine").facts
    assert (facts.precision, facts.fused_attention) == (precision, fused)


def test_a_static_file_is_built_as_it_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    onnx_file = convert(Recipe(tiny_checkpoint, batch=2, output=tmp_path / "s.onnx")).onnx
    assert build_engine(onnx_file, output=tmp_path / "s.engine").facts.batches == ("2",)
    with pytest.raises(InputError, match=r"s.onnx is made for batch 2 alone: convert it again"):
        build_engine(onnx_file, batches=["1:2:4"], output=tmp_path / "t.engine")
    assert not (tmp_path / "t.engine").exists()


def test_several_profiles(tiny_conversion: Conversion, tmp_path: Path) -> None:
    out = tmp_path / "a folder" / "p.engine"
    result = build_engine(tiny_conversion.onnx, batches=["1", "2:3:5"], output=out)
    assert result.facts.batches == ("1", "2:3:5")
    assert Path(result.sidecar) == tmp_path / "a folder" / "p.engine.json"


def test_options_reach_the_sidecar(tiny_conversion: Conversion, tmp_path: Path) -> None:
    options = BuildOptions(
        workspace_mib=64, optimization_level=1, compute_capabilities=("8.6", "8.9"), tf32=True
    )
    result = build_engine(tiny_conversion.onnx, options=options, output=tmp_path / "o.engine")
    assert result.facts.capabilities == ("8.6", "8.9")
    assert Sidecar.load(tmp_path / "o.engine").options == options


def test_options_reach_the_builder(tmp_path: Path) -> None:
    """A workspace too small for the model's scratch memory is refused, by name."""
    x = helper.make_node("TopK", ["images", "k"], ["v", "i"], name="select/TopK")
    model = graph_file(tmp_path / "t.onnx", x, [64, 3, 64, 3000], k=np.array([3000]))
    build_engine(model, output=tmp_path / "t.engine")
    small = BuildOptions(workspace_mib=1)
    with pytest.raises(BuildError, match="OutOfMemory: Requested size was"):
        build_engine(model, options=small, output=tmp_path / "u.engine")


def test_weights_are_exchanged_on_a_gpu_only(tiny_conversion: Conversion, tmp_path: Path) -> None:
    for options in (BuildOptions(refit=True), BuildOptions(strip_weights=True)):
        with pytest.raises(DeviceError, match="can be exchanged on a GPU only, and no NVIDIA dri"):
            build_engine(tiny_conversion.onnx, options=options, output=tmp_path / "o.engine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dla_core": 0}, r"tensorrt-rtx has no `dla_core`: leave it out, or choose `edition` ten"),
        ({"version_compatible": True}, "tensorrt-rtx has no `version_compatible`"),
        ({"hardware_compatible": True}, "tensorrt-rtx has no `hardware_compatible`"),
        ({"timing_cache": "file"}, "tensorrt-rtx has no `timing_cache`"),
        ({"compute_capabilities": ("9.9",)}, r"capability 9.9 is not one .* choose from 7.5, 8.0"),
    ],
)
def test_options_the_flavour_does_not_take(
    tiny_conversion: Conversion, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    out = tmp_path / "x.engine"
    with pytest.raises(InputError, match=message):
        build_engine(tiny_conversion.onnx, edition=RTX, options=BuildOptions(**options), output=out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace_mib": 0}, "a workspace of 0 MiB is none"),
        ({"workspace_mib": 1 << 40}, "MiB is none: give 1 to 16777216"),
        ({"optimization_level": 6}, "optimization level 6 does not exist: give 0 to 5"),
        ({"dla_core": -1}, "DLA core -1 does not exist"),
        ({"compute_capabilities": ("sm86",)}, r"compute capability 'sm86' is not valid: write it"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildOptions(**options)


def test_only_one_flavour_takes_the_other_s_options() -> None:
    with pytest.raises(InputError, match="tensorrt has no `compute_capabilities`: leave it out"):
        EDITIONS["tensorrt"].require_options(BuildOptions(compute_capabilities=("8.6",)))


@pytest.mark.parametrize(
    ("capability", "targets", "expected"),
    [
        ("8.9", ("8.6", "8.9"), True),
        ("9.0", ("8.0", "8.6", "8.9", "12.0+"), False),
        ("12.1", ("8.0", "12.0+"), True),
        ("12.0", ("12.0+",), True),
        ("10.0", ("8.0+",), True),
        ("7.5", ("8.0+",), False),
    ],
)
def test_which_gpus_fit(capability: str, targets: tuple[str, ...], expected: bool) -> None:
    assert fits(capability, targets) is expected


def test_auto_is_what_is_installed() -> None:
    assert find_edition("auto").name == RTX
    with pytest.raises(InputError, match=r"unknown TensorRT 'tensorrt-rt': did you mean 'tenso"):
        find_edition("tensorrt-rt")
    with pytest.raises(MissingExtraError, match=r"pip install .*'tensorrt>="):
        find_edition("tensorrt").load()


def graph_file(path: Path, node: onnx.NodeProto, shape: list[Any], **constants: Any) -> Path:
    """A foreign model of one node."""
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info(node.output[-1], _output_type(node), None)
    graph = helper.make_graph([node], "one node", [images], [result], initializers)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def _output_type(node: onnx.NodeProto) -> int:
    return TensorProto.INT64 if node.op_type == "TopK" else TensorProto.FLOAT


def test_a_foreign_model(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["images"], ["y"], name="relu")
    model = graph_file(tmp_path / "foreign.onnx", node, ["n", 3, 8, 8])
    with pytest.raises(InputError, match=r"leaves its batch size open: give a range, as in `bat"):
        build_engine(model, output=tmp_path / "f.engine")
    facts = build_engine(model, batches=["1:2:4"], output=tmp_path / "f.engine").facts
    assert facts.properties == {}
    assert facts.batches == ("1:2:4",)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [([1, 3], TensorProto.FLOAT), ([1, 3, 8, 8], TensorProto.INT64), (None, None)],
)
def test_what_is_no_image_model(tmp_path: Path, shape: Any, kind: Any) -> None:
    inputs = [] if shape is None else [helper.make_tensor_value_info("images", kind, shape)]
    initial = [numpy_helper.from_array(np.ones((2, 2), np.float32), "w")]
    node = helper.make_node("Cast", ["w" if shape is None else "images"], ["y"], to=1)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "odd", inputs, [result], initial)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "o.onnx")
    with pytest.raises(InputError, match="engines are built of models with one input, images"):
        build_engine(tmp_path / "o.onnx", output=tmp_path / "o.engine")


def test_weights_listed_as_inputs(tmp_path: Path) -> None:
    """As files of IR version 3 do, in any order."""
    w = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    inputs = [
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 3, 1, 1]),
        helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8]),
    ]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Mul", ["images", "w"], ["y"])
    graph = helper.make_graph([node], "old", inputs, [result], [w])
    opsets = [helper.make_opsetid("", 14)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=3), tmp_path / "o.onnx")
    facts = build_engine(tmp_path / "o.onnx", batches=["1:2:4"], output=tmp_path / "o.engine").facts
    assert facts.input_shape == (3, 8, 8)


def test_shapes_that_are_open_elsewhere(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["images"], ["y"], name="relu")
    model = graph_file(tmp_path / "open.onnx", node, ["n", 3, "h", "w"])
    with pytest.raises(InputError, match=r"of which only the batch size may be open, found images"):
        build_engine(model, batches=["1:2:4"], output=tmp_path / "f.engine")


def test_what_the_parser_refuses_is_named(tmp_path: Path) -> None:
    model = graph_file(
        tmp_path / "d.onnx", helper.make_node("Det", ["images"], ["y"], name="a/Det"), [1, 3, 2, 2]
    )
    with pytest.raises(BuildError, match=r"tensorrt-rtx refuses node 'a/Det' \(Det\): the parser"):
        build_engine(model, output=tmp_path / "d.engine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.onnx"]


def test_what_the_builder_refuses_is_named_with_its_mend(tmp_path: Path) -> None:
    """A top-k beyond the limit parses, and is refused only when it is built."""
    node = helper.make_node("TopK", ["images", "k"], ["v", "i"], name="select/TopK")
    model = graph_file(tmp_path / "k.onnx", node, [1, 1, 1, 8000], k=np.array([5000]))
    with pytest.raises(
        BuildError, match=r"select/TopK: K exceeds the maximum value allowed \(3840\)"
    ):
        build_engine(model, output=tmp_path / "k.engine")
    assert not (tmp_path / "k.engine").exists()


@pytest.mark.parametrize(("kind", "raised"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", Stop)])
def test_an_interrupt_stops_the_build_and_leaves_nothing(
    tiny_conversion: Conversion, tmp_path: Path, kind: str, raised: type[BaseException]
) -> None:
    """A signal as the terminal sends it, wherever TensorRT is just then."""

    def stop(*_: Any) -> None:
        raise Stop

    phases = []

    def interrupt(phase: str, done: int, steps: int) -> None:
        if not phases:
            signal.raise_signal(getattr(signal, kind))
        phases.append(phase)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(raised):
            build_engine(tiny_conversion.onnx, output=tmp_path / "i.engine", on_progress=interrupt)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


def test_the_onnx_file_is_not_overwritten(tiny_conversion: Conversion) -> None:
    with pytest.raises(InputError, match="would be overwritten"):
        build_engine(tiny_conversion.onnx, output=tiny_conversion.onnx)


def test_convert_builds_in_one_go(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = convert(Recipe(tiny_checkpoint, batch=1, edition="auto", output=tmp_path / "c.onnx"))
    assert result.engine is not None
    assert result.engine.engine == str(tmp_path / "c.engine")
    assert (
        result.engine.facts.onnx_sha256
        == hashlib.sha256(Path(result.onnx).read_bytes()).hexdigest()
    )
    with pytest.raises(MissingExtraError):
        convert(Recipe(tiny_checkpoint, edition="tensorrt", output=tmp_path / "d.onnx"))
    assert not (tmp_path / "d.onnx").exists()


# What never reaches deserialisation


def truncate(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1000])


def flip(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(bytes(content))


def empty(engine: Path) -> None:
    engine.write_bytes(b"")


def no_sidecar(engine: Path) -> None:
    Sidecar.path_beside(engine).unlink()


def garbage(engine: Path) -> None:
    Sidecar.path_beside(engine).write_bytes(b"\xff\x00{")


def shortened(engine: Path) -> None:
    path = Sidecar.path_beside(engine)
    path.write_text(path.read_text()[:200])


def field(name: str, value: Any) -> Callable[[Path], None]:
    def change(engine: Path) -> None:
        path = Sidecar.path_beside(engine)
        values = json.loads(path.read_text())
        if value is None:
            del values[name]
        else:
            values[name] = value
        path.write_text(json.dumps(values))

    return change


DAMAGES = {
    "cut short": (truncate, "was cut short or changed: its sidecar describes another"),
    "one bit": (flip, "was cut short or changed"),
    "empty": (empty, "was cut short or changed"),
    "no sidecar": (no_sidecar, r"has no sidecar tiny.engine.json, .* or give `trust` if you know"),
    "garbage": (garbage, r"tiny.engine.json is damaged: build it again with `dynexport build`"),
    "half a sidecar": (shortened, "is damaged"),
    "another hash": (field("engine_sha256", "0" * 64), "was cut short or changed"),
    "a field too few": (field("version", None), "is damaged"),
    "a field too many": (field("note", "hello"), "is damaged"),
    "a number for a text": (field("flavour", 7), "is damaged"),
    "no batches": (field("batches", []), "is damaged"),
    "a wrong batch": (field("batches", ["5:1:2"]), "is damaged"),
    "a later format": (field("format", 99), "is damaged"),
    "options of another": (field("options", {"rm": True}), "is damaged"),
    "layers of another": (field("layers", [{"name": "x"}]), "is damaged"),
    "a layer's name a number": (
        field("layers", [{"name": 3, "kind": "x", "nodes": []}]),
        "is damaged",
    ),
    "a version that is none": (field("version", "abc"), "is damaged"),
    "a capability that is none": (field("capabilities", ["x+"]), "is damaged"),
    "a text for a list": (field("capabilities", "8.9"), "is damaged"),
    "an image without height": (field("input_shape", [3, 28]), "is damaged"),
    "another folder": (field("onnx", "../tiny.onnx"), "is damaged"),
    "no GPU's name": (field("gpu", 0), "is damaged"),
    "a text for yes": (
        field("options", {**dataclasses.asdict(BuildOptions()), "tf32": "yes"}),
        "is damaged",
    ),
    "brackets": (
        lambda engine: Sidecar.path_beside(engine).write_text("[" * 100_000),
        "is damaged",
    ),
    "another flavour": (field("flavour", "openvino"), "was built with openvino, which is unknown"),
    "a flavour not here": (field("flavour", "tensorrt"), r"tensorrt is not installed"),
    "another version": (field("version", "1.0.0.1"), r"built with tensorrt-rtx 1.0.0.1, here is"),
    "another capability": (field("capabilities", ["8.6"]), r"runs on compute capability 8.6, this"),
    "another GPU": (field("gpu", "NVIDIA L4"), r"was built on a NVIDIA L4, this is a Stand-in"),
}


@pytest.fixture
def deserialised(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The plans that reach native code, on a machine that says it has a GPU."""
    reached: list[bytes] = []
    here = cuda.Device("Stand-in", "8.9", "GPU-0")
    monkeypatch.setattr(cuda, "current_device", lambda: here)
    monkeypatch.setattr(opening, "EngineRunner", lambda flavour, plan, **_: reached.append(plan))
    return reached


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_belong_is_never_deserialised(
    engine: Path, deserialised: list[bytes], damage: str
) -> None:
    change, message = DAMAGES[damage]
    change(engine)
    with pytest.raises(DynexportError, match=message) as caught:
        open_engine(engine)
    assert caught.value.exit_code == 2
    assert not deserialised


def test_what_belongs_is_opened(engine: Path, deserialised: list[bytes]) -> None:
    open_engine(engine)
    assert deserialised == [engine.read_bytes()]


@pytest.mark.parametrize("damage", ["no sidecar", "another version", "another GPU", "one bit"])
def test_trust_is_the_user_s_word(engine: Path, deserialised: list[bytes], damage: str) -> None:
    DAMAGES[damage][0](engine)
    open_engine(engine, trust=True)
    assert deserialised == [engine.read_bytes()]


def test_version_compatible_engines_run_later(engine: Path, deserialised: list[bytes]) -> None:
    here = EDITIONS[RTX].version()
    assert here is not None
    major, minor = here.split(".")[:2]
    options = dataclasses.asdict(BuildOptions(version_compatible=True))
    field("options", options)(engine)
    field("version", f"{major}.{int(minor) + 1}.0")(engine)
    with pytest.raises(EngineError, match="here is"):
        open_engine(engine)
    field("version", f"{major}.0.0")(engine)
    open_engine(engine)
    assert len(deserialised) == 1


def test_an_engine_of_another_file_is_not_verified(engine: Path, tmp_path: Path) -> None:
    model = ir.load(tmp_path / "tiny.onnx")
    model.graph.name = "another"
    ir.save(model, tmp_path / "tiny.onnx")
    with pytest.raises(EngineError, match=r"was not built from .*tiny.onnx \(its sidecar names"):
        verify_model(tmp_path / "tiny.onnx", engine=engine)
    with pytest.raises(InputError, match=r"does not exist: expected an engine"):
        verify_model(tmp_path / "tiny.onnx", engine=tmp_path / "none.engine")
    with pytest.raises(InputError, match=r"`backend` onnxruntime runs the ONNX file and `engine`"):
        verify_model(tmp_path / "tiny.onnx", engine=engine, backend="onnxruntime")


def test_an_engine_of_others_is_taken_for_what_the_onnx_file_says(
    engine: Path, deserialised: list[bytes], tmp_path: Path
) -> None:
    no_sidecar(engine)
    with pytest.raises(EngineError, match="has no sidecar"):
        read_sidecar(engine, tmp_path / "tiny.onnx", trust=False)
    with pytest.raises(EngineError, match="has no sidecar"):
        read_sidecar(engine, None, trust=True)
    facts = read_sidecar(engine, tmp_path / "tiny.onnx", trust=True)
    assert (facts.flavour, facts.batches, facts.input_shape) == (RTX, ("1:3:5",), (3, 28, 28))
    found = find_artifact(tmp_path / "tiny.onnx", engine=engine, trust=True)
    assert found.sparse
    assert (found.engine, found.sidecar) == (engine, facts)
    assert not deserialised


def test_without_a_gpu_it_is_one_sentence(engine: Path, tmp_path: Path) -> None:
    skip_with_a_gpu()
    for call in (
        lambda: verify_model(tmp_path / "tiny.onnx", engine=engine),
        lambda: bench_model(engine=engine),
        lambda: open_engine(engine),
    ):
        with pytest.raises(DeviceError, match="no NVIDIA driver is installed: engines run on an"):
            call()


def test_inspecting_an_engine_reads_its_sidecar(engine: Path) -> None:
    facts = inspect_file(engine)
    assert (facts["kind"], facts["flavour"], facts["intact"]) == ("engine", RTX, True)
    assert facts["dynexport"]["variant"] == "deit"
    flip(engine)
    assert inspect_file(engine)["intact"] is False
    no_sidecar(engine)
    with pytest.raises(EngineError, match="has no sidecar"):
        inspect_file(engine)


def test_measurements_are_kept_for_each_gpu_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    proper, gpu = EDITIONS["tensorrt"], cuda.Device("NVIDIA A100-SXM4 40GB", "8.0", "GPU-0")
    path = builder._timing_cache(proper, BuildOptions(), "10.3.0", gpu)
    assert path == tmp_path / "dynexport" / "tensorrt-10.3.0-NVIDIA-A100-SXM4-40GB.timing"
    named = BuildOptions(timing_cache=str(tmp_path / "mine"))
    assert builder._timing_cache(proper, named, "10.3.0", gpu) == tmp_path / "mine"
    none = BuildOptions(timing_cache="none")
    assert builder._timing_cache(proper, none, "10.3.0", gpu) is None
    assert builder._timing_cache(EDITIONS[RTX], BuildOptions(), "1.7", gpu) is None
