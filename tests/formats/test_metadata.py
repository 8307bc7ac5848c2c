"""Batch sizes as people write them, and metadata that survives the way through an ONNX file."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynexport.conversion import Conversion
from dynexport.errors import InputError, ModelFileError
from dynexport.formats.metadata import PREFIX, Batch, Metadata
from dynexport.formats.onnx_file import read_metadata, read_model
from dynexport.images import Preprocessing
from dynexport.schedule import Selection

SPARSE = Metadata(
    family="deit",
    variant="deit-s",
    config={"embed_dim": 384, "prune_at": [3, 6, 9], "in_chans": 3},
    ratios=(0.7, 0.7**2, 0.7**3),
    keep_counts=(137, 96, 67),
    num_tokens=196,
    selection=Selection(nested=True, leading=1),
    batch="1:8:64",
    outputs={"logits": (1000,)},
    macs_dense=4_600_000_000,
    macs_sparse=3_000_000_000,
    nodes_dense=344,
    nodes=395,
    preprocessing=Preprocessing.for_size(224),
    selected=("score_predictor.0/TopK.1", "score_predictor.1/TopK.1", "score_predictor.2/TopK.1"),
    dense_twin={"score_predictor.0/GatherND": "blocks.2/Add_1"},
    checkpoint_sha256="0" * 64,
    weights="model_ema",
    precision={"name": "fp32"},
    versions={"torch": "2.9.0"},
)
DENSE = dataclasses.replace(SPARSE, ratios=None, keep_counts=(), selected=(), dense_twin={})
MAPS = dataclasses.replace(
    SPARSE,
    selection=Selection(nested=True, appended=1),
    outputs={f"feat_{stage}": (96 * 2**stage, 56 >> stage, 56 >> stage) for stage in range(4)},
)


@pytest.mark.parametrize(
    ("text", "sizes", "dynamic", "shown"),
    [
        ("8", (8, 8, 8), False, "8"),
        ("1", (1, 1, 1), False, "1"),
        ("1:8:64", (1, 8, 64), True, "1:8:64"),
        ("1:1:2", (1, 1, 2), True, "1:1:2"),
        ("4:4:4", (4, 4, 4), False, "4"),
        (" 2 : 3 : 4 ", (2, 3, 4), True, "2:3:4"),
    ],
)
def test_batch_sizes_are_read_and_shown(
    text: str, sizes: tuple[int, int, int], dynamic: bool, shown: str
) -> None:
    batch = Batch.parse(text)
    assert (batch.smallest, batch.optimal, batch.largest) == sizes
    assert batch.dynamic is dynamic
    assert str(batch) == shown


@pytest.mark.parametrize("text", ["", "x", "1:2", "1:2:3:4", "1.5", "1::2", "8:", "1,8,64", "1-8"])
def test_a_batch_that_is_no_size_and_no_range_is_refused(text: str) -> None:
    with pytest.raises(InputError) as found:
        Batch.parse(text)
    assert str(found.value) == (
        f"batch {text!r} is not valid: write one size, 8, or a range, 1:8:64"
    )


@pytest.mark.parametrize("text", ["0", "-1", "0:8:64", "8:1:64", "1:64:8", "64:8:1"])
def test_a_batch_below_1_or_out_of_order_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"^batch {text} is not valid: .*at least 1 and rise"):
        Batch.parse(text)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=3))
def test_a_batch_is_read_back_from_what_it_shows(sizes: list[int]) -> None:
    batch = Batch(*sorted(sizes))
    assert Batch.parse(str(batch)) == batch


@pytest.mark.parametrize("metadata", [SPARSE, DENSE, MAPS], ids=["sparse", "dense", "maps"])
def test_metadata_survives_a_round_trip(metadata: Metadata) -> None:
    properties = metadata.to_properties()
    assert set(properties) == {PREFIX + field.name for field in dataclasses.fields(Metadata)}
    assert json.loads(properties[PREFIX + "keep_counts"]) == list(metadata.keep_counts)
    assert Metadata.from_properties(properties, "m.onnx") == metadata


def test_metadata_of_others_beside_it_is_ignored() -> None:
    properties = {**SPARSE.to_properties(), "author": "somebody", PREFIX + "future": "1"}
    assert Metadata.from_properties(properties, "m.onnx") == SPARSE


def test_a_dense_twin_keeps_everything_and_gains_nothing() -> None:
    assert DENSE.ideal_speedup == 1.0
    assert SPARSE.ideal_speedup == pytest.approx(46 / 30)


REQUIRED = [
    field.name for field in dataclasses.fields(Metadata) if field.default is dataclasses.MISSING
]


def test_a_file_from_before_there_was_a_choice_says_nothing_of_it() -> None:
    chosen = dataclasses.replace(SPARSE, align=8, target="any")
    properties = chosen.to_properties()
    assert Metadata.from_properties(properties, "new.onnx") == chosen
    for field in ("align", "target"):
        del properties[PREFIX + field]
    assert Metadata.from_properties(properties, "old.onnx") == SPARSE
    assert (SPARSE.align, SPARSE.target) == (1, "tensorrt")


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(field: str) -> None:
    properties = SPARSE.to_properties()
    del properties[PREFIX + field]
    with pytest.raises(ModelFileError) as found:
        Metadata.from_properties(properties, "some.onnx")
    assert str(found.value) == (
        f"some.onnx carries no dynexport metadata ({field} is missing): "
        "give an ONNX file that `dynexport convert` wrote"
    )


def test_a_file_without_any_metadata_is_no_file_of_ours() -> None:
    with pytest.raises(ModelFileError, match=r"other\.onnx carries no dynexport metadata"):
        Metadata.from_properties({}, "other.onnx")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("family", "deit"),
        ("config", "{"),
        ("ratios", "5"),
        ("ratios", ""),
        ("keep_counts", "true"),
        ("preprocessing", "null"),
        ("preprocessing", "7"),
        ("preprocessing", "[]"),
        ("preprocessing", '"x"'),
        ("preprocessing", "{}"),
        ("preprocessing", '{"mean": [0], "std": [1]}'),
        ("preprocessing", '{"img_size": 8, "resize": null, "mean": [0], "std": [1], "x": 1}'),
        ("keep_counts", "null"),
        ("config", "3"),
        ("config", "null"),
        ("batch", "3"),
        ("batch", '"x"'),
        ("family", "null"),
        ("selection", '"nested"'),
        ("selection", "{}"),
        ("selection", '{"nested": false, "leading": 0, "appended": 1}'),
        ("selection", '{"nested": true, "leading": "one", "appended": 0}'),
        ("outputs", "{}"),
        ("outputs", "[]"),
        ("outputs", '{"logits": 1000}'),
        ("outputs", '{"logits": [-1]}'),
        ("outputs", '{"logits": ["many"]}'),
        ("selected", "null"),
        ("selected", '["a"]'),
        ("selected", '["a", "b", 3]'),
        ("dense_twin", "[]"),
        ("dense_twin", '{"a": 1}'),
        ("align", "0"),
        ("align", '"8"'),
    ],
)
def test_a_damaged_field_is_one_clear_error(field: str, value: str) -> None:
    with pytest.raises(ModelFileError) as found:
        Metadata.from_properties({**SPARSE.to_properties(), PREFIX + field: value}, "some.onnx")
    assert str(found.value) == (
        "the dynexport metadata of some.onnx is damaged: convert the checkpoint again"
    )


def test_the_exported_file_carries_the_metadata_the_conversion_reports(
    tiny_conversion: Conversion,
) -> None:
    metadata = read_metadata(tiny_conversion.onnx)
    # JSON has lists where Python has tuples
    assert metadata.to_properties() == tiny_conversion.metadata.to_properties()
    assert metadata.keep_counts == (34, 24, 16)
    assert metadata.batch == "1:3:5"
    assert metadata.weights == "model"


def test_json_nested_without_end_is_damaged(tiny_conversion: Conversion) -> None:
    properties = dict(read_model(tiny_conversion.onnx).metadata_props)
    properties[f"{PREFIX}config"] = "[" * 100_000
    with pytest.raises(ModelFileError, match=r"the dynexport metadata of x\.onnx is damaged"):
        Metadata.from_properties(properties, "x.onnx")
