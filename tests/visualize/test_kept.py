"""What is shown as kept is what the model keeps, and what PyTorch kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from made.looking import RATIOS, artifact_of
from made.tiny import Tiny, convert_tiny, take_batches, typed
from numpy.typing import NDArray
from PIL import Image

import dynexport
from dynexport.artifact import Artifact, find_artifact
from dynexport.cli import main
from dynexport.errors import DynexportError, InputError, ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.images import Preprocessing
from dynexport.visualize import visualize_images
from dynexport.visualize.drawing import (
    View,
)
from dynexport.visualize.look import look_at, to_pictures
from dynexport.visualize.strips import draw_strip, draw_strips, plan_layout

pytestmark = pytest.mark.slow


def tiles_of(sheet: Image.Image, view: View, metadata: Metadata) -> list[NDArray[np.uint8]]:
    """What a strip without heading shows of the picture: the original, then each stage."""
    layout = plan_layout(metadata, scores=bool(view.scores), classes=len(view.classes))
    pixels = np.asarray(sheet)
    top = 2 * layout.line + layout.gap
    lefts = [layout.gap + place * layout.column for place in range(1 + layout.stages)]
    high, wide = layout.tile
    return [pixels[top : top + high, left : left + wide] for left in lefts]


def test_what_is_kept_is_what_pytorch_kept(tiny: Tiny, tmp_path: Path) -> None:
    views = look_at(artifact_of(tiny, tmp_path), tiny.bundle.images, scores=True)
    assert len(views) == len(tiny.bundle.images) == 8
    for row, view in enumerate(views):
        assert np.array_equal(view.picture, tiny.bundle.images[row])
        assert len(view.kept) == len(view.scores) == 3
        for kept, theirs in zip(view.kept, tiny.bundle.kept, strict=True):
            assert set(kept) == set(theirs[row])


def test_kept_are_the_best_scores_of_those_ranked(tiny: Tiny, tmp_path: Path) -> None:
    """The class token is no patch, nor is what EViT appends; what was dropped is not ranked."""
    tokens, nested = tiny.metadata.num_tokens, tiny.metadata.selection.nested
    for view in look_at(artifact_of(tiny, tmp_path), tiny.bundle.images[:3], scores=True):
        left = np.arange(tokens)
        for kept, scores in zip(view.kept, view.scores, strict=True):
            patches = kept[kept < tokens]
            assert scores.shape == (tokens,)
            assert np.array_equal(np.flatnonzero(np.isfinite(scores)), np.sort(left))
            assert np.nanmax(np.abs(scores)) < 1e6
            assert (np.diff(scores[patches]) <= 0).all()  # best first
            out = np.setdiff1d(left, patches)
            assert scores[patches].min() >= scores[out].max()
            left = patches if nested else left


def test_a_strip_shows_what_is_kept_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    (view,) = look_at(artifact_of(tiny, tmp_path), tiny.bundle.images[:1])
    original, *stages = tiles_of(draw_strip(view, tiny.metadata), view, tiny.metadata)
    side, tokens = len(original), tiny.metadata.num_tokens
    factor = side // len(view.picture)
    assert side == 224
    assert np.array_equal(original[factor // 2 :: factor, factor // 2 :: factor], view.picture)
    assert np.array_equal(original, view.picture.repeat(factor, 0).repeat(factor, 1))
    assert len(stages) == 3
    for tile, kept in zip(stages, view.kept, strict=True):
        cells = tile.reshape(int(tokens**0.5), -1, int(tokens**0.5), side // int(tokens**0.5), 3)
        plain = original.reshape(cells.shape)
        for position in range(tokens):
            at = (position // len(cells), slice(None), position % len(cells))
            same = (cells[at] == plain[at]).all(axis=-1)
            assert same.all() if position in kept else same.mean() < 0.1


def test_classes_are_the_most_probable(deit: Tiny, tmp_path: Path) -> None:
    views = look_at(artifact_of(deit, tmp_path), deit.bundle.images, top=10)
    for view, logits in zip(views, deit.bundle.outputs["logits"].astype(np.float64), strict=True):
        shares = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-shares)
        assert [name for name, _ in view.classes] == [f"class {number}" for number in order]
        assert np.allclose([share for _, share in view.classes], shares[order], atol=1e-5)


@pytest.mark.parametrize("batch", ["8", "2:4:4", "1"])
def test_any_number_of_images_fits_any_batch(tiny: Tiny, batch: str, tmp_path: Path) -> None:
    bundle = tiny.bundle
    artifact = artifact_of(take_batches(tiny, batch), tmp_path)
    for count in (1, 3, 6):
        views = look_at(artifact, bundle.images[:count])
        assert len(views) == count
        for row, view in enumerate(views):
            assert view.classes[0][0] == f"class {bundle.outputs['logits'][row].argmax()}"
            theirs = [set(kept[row]) for kept in bundle.kept]
            assert [set(kept) for kept in view.kept] == theirs


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_other_precisions_are_drawn(deit: Tiny, precision: str, tmp_path: Path) -> None:
    graph = typed(deit, precision)
    views = look_at(artifact_of(deit, tmp_path, graph), deit.bundle.images, scores=True)
    shared = [
        np.isin(kept, theirs[row]).mean()
        for row, view in enumerate(views)
        for kept, theirs in zip(view.kept, deit.bundle.kept, strict=True)
    ]
    assert np.mean(shared) > 0.9


def test_a_runtime_that_compiles_a_probe_anew_is_asked_itself(
    deit: Tiny, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own answers, and what it says it keeps, before the probe's."""
    expected = look_at(artifact_of(deit, tmp_path), deit.bundle.images)
    onnx_file = folder / "told.onnx"
    dynexport.convert(
        dynexport.Recipe(
            folder / "deit.pth", ratios="0.7,0.5,0.3", emit_kept=True, output=onnx_file
        )
    )
    found = look_at(find_artifact(onnx_file, "openvino"), deit.bundle.images, scores=True)
    for view, theirs in zip(found, expected, strict=True):
        assert view.classes[0][0] == theirs.classes[0][0]
        assert [set(kept) for kept in view.kept] == [set(kept) for kept in theirs.kept]
        assert len(view.scores) == 3

    def refuse(self: Artifact) -> Any:
        raise DynexportError("opened itself")

    monkeypatch.setattr(Artifact, "open", refuse)
    closed = find_artifact(onnx_file, "openvino")
    with pytest.raises(DynexportError, match="opened itself"):
        look_at(closed, deit.bundle.images)


def test_normalised_images_are_drawn_as_the_pictures_they_were(deit: Tiny, tmp_path: Path) -> None:
    steps, images = deit.metadata.preprocessing, deit.bundle.images
    artifact = artifact_of(deit, tmp_path)
    as_inputs = look_at(artifact, steps.normalise(images))
    for one, other in zip(as_inputs, look_at(artifact, images), strict=True):
        assert np.array_equal(one.picture, other.picture)
        assert all(map(np.array_equal, one.kept, other.kept))


def test_every_brightness_survives_normalising() -> None:
    steps = Preprocessing.for_size(16)
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    assert np.array_equal(to_pictures(steps.normalise(ramp), steps), ramp)


def test_a_dense_model_shows_the_image_alone(
    folder: Path, deit: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = tmp_path / "dense.onnx"
    dynexport.convert(dynexport.Recipe(folder / "deit.pth", dense=True, output=dense))
    out = tmp_path / "dense.png"
    with pytest.raises(SystemExit, match="0"):
        main(["visualize", str(dense), str(folder / "pictures"), "--scores", "-o", str(out)])
    assert "a dense model: nothing is dropped" in capsys.readouterr().out
    (view, *_) = views = look_at(find_artifact(dense), deit.bundle.images[:1], scores=True)
    assert (view.kept, view.scores) == ((), ())
    assert len(view.classes) == 3
    facts = dataclasses.replace(deit.metadata, ratios=None, keep_counts=(), selected=())
    assert draw_strips(views, facts).width < 2.5 * 224


def test_a_model_of_features_shows_no_classes(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = tmp_path_factory.mktemp("features")
    tiny = convert_tiny(folder, "swin", RATIOS, batch="1:3:5")
    features = folder / "features.onnx"
    dynexport.convert(
        dynexport.Recipe(
            folder / "swin.pth", ratios="0.7,0.5,0.3", task="features", output=features
        )
    )
    (view,) = look_at(find_artifact(features), tiny.bundle.images[:1])
    assert view.classes == ()
    assert len(view.kept) == 3
    np.savez(tmp_path / "images.npz", images=tiny.bundle.images)
    labels = tmp_path / "names.txt"
    labels.write_text("cat\n")
    arguments: Any = (features, tmp_path / "images.npz", tmp_path / "out.png")
    assert visualize_images(*arguments).images[0].classes == ()
    with pytest.raises(InputError, match=r"maps of features \(feat_0, .*: leave `labels` out"):
        visualize_images(*arguments, labels=labels)


def test_logits_that_are_no_numbers_are_told(deit: Tiny, tmp_path: Path) -> None:
    graph = deit.graph.clone()
    for name, value in graph.graph.initializers.items():
        assert value.const_value is not None
        if tuple(value.const_value.shape) == (10,):  # the head's bias
            value.const_value = ir.tensor(np.full(10, np.nan, np.float32), name=name)
    with pytest.raises(ModelFileError, match="no numbers: `dynexport verify` tells more"):
        look_at(artifact_of(deit, tmp_path, graph), deit.bundle.images)
