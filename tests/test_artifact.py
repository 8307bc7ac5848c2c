"""One Artifact: an ONNX file in a runtime, or an engine; read once, opened anywhere."""

from __future__ import annotations

import multiprocessing
import pickle
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from dynexport import artifact as artifacts
from dynexport.artifact import Artifact, find_artifact, onnx_artifact
from dynexport.conversion import Conversion
from dynexport.engine import build_engine
from dynexport.errors import EngineError, InputError, ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import read_metadata, read_model


def logits_of(artifact: Artifact) -> np.ndarray:  # type: ignore[type-arg]
    """What it answers to images of noise."""
    noise = np.random.default_rng(0).standard_normal((3, *artifact.input_shape))
    with artifact.open(threads=1) as runner:
        return np.asarray(runner.run(noise.astype(np.float32))["logits"])


def test_an_onnx_file_tells_what_it_is(tiny_conversion: Conversion) -> None:
    found = find_artifact(tiny_conversion.onnx)
    facts = tiny_conversion.metadata
    assert found.metadata == facts
    assert (found.name, found.label) == (str(tiny_conversion.onnx), "onnxruntime")
    assert (found.sizes, found.optimal) == ((1, 3, 4), 3)
    assert found.input_shape == (3, 28, 28)
    assert found.sparse
    assert found.ideal == facts.macs_dense / facts.macs_sparse
    assert found.precision == "fp32"
    assert not found.rebuilt
    assert find_artifact(tiny_conversion.onnx, "openvino").rebuilt


def test_file_and_metadata_are_read_once(
    tiny_conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def count(path: object) -> object:
        read.append("file")
        return read_model(path)  # type: ignore[arg-type]

    def parse(*given: object) -> Metadata:
        read.append("metadata")
        return read_metadata(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(artifacts, "read_model", count)
    monkeypatch.setattr(artifacts, "read_metadata", parse)
    found = find_artifact(tiny_conversion.onnx)
    assert found.graph is found.graph
    assert found.in_runtime("openvino").graph is found.graph
    assert found.require_metadata() is found.metadata
    assert sorted(read) == ["file", "metadata"]


def test_it_pickles_without_its_graph(tiny_conversion: Conversion) -> None:
    found = find_artifact(tiny_conversion.onnx)
    content = pickle.dumps(found)
    assert len(content) < 10_000
    again = pickle.loads(content)
    assert (again.metadata, again.sizes, again.label) == (
        found.metadata,
        found.sizes,
        found.label,
    )
    assert len(again.graph.graph) == len(found.graph.graph)


def test_another_process_takes_it(tiny_conversion: Conversion) -> None:
    found = find_artifact(tiny_conversion.onnx)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs = pool.apply(attrgetter("precision", "input_shape"), (found,))  # reads the file
        assert theirs == (found.precision, found.input_shape)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(logits_of(again), logits_of(found))


def test_it_opens_twice(tiny_conversion: Conversion) -> None:
    found = find_artifact(tiny_conversion.onnx)
    first = logits_of(found)
    assert np.array_equal(first, logits_of(found))
    with found.open() as one, found.open_probe(found.graph.clone()) as other:
        noise = np.zeros((1, *found.input_shape), np.float32)
        assert np.array_equal(one.run(noise)["logits"], other.run(noise)["logits"])


def test_one_of_a_graph_in_hand(tiny_conversion: Conversion) -> None:
    path = Path(tiny_conversion.onnx)
    graph = read_model(path)
    made = onnx_artifact(path, graph, tiny_conversion.metadata, "openvino")
    assert made.graph is graph
    assert made.metadata is tiny_conversion.metadata
    assert made.label == "openvino"


def test_runtime_or_engine(tiny_conversion: Conversion) -> None:
    with pytest.raises(InputError, match="give one of the two"):
        find_artifact(tiny_conversion.onnx, "onnxruntime", engine="any.engine")
    with pytest.raises(InputError, match="there is nothing to open"):
        find_artifact()
    with pytest.raises(InputError, match="unknown backend 'onnxrun'"):
        find_artifact(tiny_conversion.onnx, "onnxrun")


def test_an_engine_finds_its_onnx_file_or_stands_alone(
    tiny_conversion: Conversion, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    onnx = tmp_path / "tiny.onnx"
    onnx.write_bytes(Path(tiny_conversion.onnx).read_bytes())
    engine = build_engine(onnx, edition="tensorrt-rtx", output=tmp_path / "tiny.engine").engine
    beside = find_artifact(engine=engine)
    assert beside.onnx == onnx
    assert beside.metadata == tiny_conversion.metadata
    assert beside.label.startswith("tensorrt-rtx ")
    assert beside.rebuilt
    assert beside.sizes == (1, 3, 4, 5)
    assert beside.in_runtime("onnxruntime").label == "onnxruntime"
    onnx.unlink()
    alone = pickle.loads(pickle.dumps(find_artifact(engine=engine)))
    assert alone.onnx is None
    assert alone.metadata == tiny_conversion.metadata
    assert (alone.precision, alone.input_shape) == ("fp32", (3, 28, 28))
    with pytest.raises(InputError, match="was built from an ONNX file that is not there"):
        _ = alone.graph
    with pytest.raises(InputError, match="needs the ONNX file the engine was built from"):
        alone.in_runtime("onnxruntime")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another")
    with pytest.raises(EngineError, match=r"was not built from .*other\.onnx"):
        find_artifact(other, engine=engine)


def test_a_foreign_file_has_no_metadata(tmp_path: Path) -> None:
    lonely = Artifact(tmp_path / "theirs.onnx", "onnxruntime", None, (), "onnxruntime")
    with pytest.raises(ModelFileError, match="carries no dynexport metadata"):
        lonely.require_metadata()
    assert (lonely.sparse, lonely.ideal) == (False, 1.0)
