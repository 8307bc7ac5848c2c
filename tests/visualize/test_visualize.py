"""Pictures of what is kept: the right patches, in every family, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from made.tiny import Tiny, convert_tiny, take_batches, typed, write
from numpy.typing import NDArray
from PIL import Image, ImageFont

import dynexport
from dynexport.artifact import Artifact, find_artifact
from dynexport.cli import main
from dynexport.engine import build_engine
from dynexport.errors import DeviceError, DynexportError, InputError, ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.images import Preprocessing, synthetic_images
from dynexport.runtimes import cuda
from dynexport.visualize import visualize_images
from dynexport.visualize.drawing import (
    UNRANKED,
    VERMILION,
    VIRIDIS,
    View,
    colour_scores,
    dim_dropped,
    patch_mask,
    rim_of,
    viridis,
)
from dynexport.visualize.images import find_images
from dynexport.visualize.labels import name_classes, read_labels
from dynexport.visualize.look import look_at, to_pictures
from dynexport.visualize.strips import LARGEST_SIDE, draw_strip, draw_strips, plan_layout, shorten

FAMILIES = ("deit", "lvvit", "swin", "convnext", "evit")
RATIOS = (0.7, 0.5, 0.3)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("tiny"), request.param, RATIOS, batch="1:3:5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a DeiT was converted: deit.pth, deit.onnx; and three pictures of digits' size."""
    folder = tmp_path_factory.mktemp("deit")
    (folder / "pictures").mkdir()
    for number, picture in enumerate(synthetic_images(5, 28, seed=3)):
        Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def deit(folder: Path) -> Tiny:
    return convert_tiny(folder, "deit", RATIOS, batch="1:3:5")


@pytest.fixture
def model(deit: Tiny, tmp_path: Path) -> Path:
    return write(tmp_path, deit.graph, deit.bundle)


def artifact_of(tiny: Tiny, folder: Path, graph: ir.Model | None = None) -> Artifact:
    return find_artifact(write(folder, graph or tiny.graph, tiny.bundle))


def tiles_of(sheet: Image.Image, view: View, metadata: Metadata) -> list[NDArray[np.uint8]]:
    """What a strip without heading shows of the picture: the original, then each stage."""
    layout = plan_layout(metadata, scores=bool(view.scores), classes=len(view.classes))
    pixels = np.asarray(sheet)
    top = 2 * layout.line + layout.gap
    lefts = [layout.gap + place * layout.column for place in range(1 + layout.stages)]
    return [pixels[top : top + layout.tile, left : left + layout.tile] for left in lefts]


# ---------------------------------------------------------------- what is kept


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


# ---------------------------------------------------------------- images in, picture out


def test_pictures_folders_and_arrays_in_one_picture(
    deit: Tiny, model: Path, folder: Path, tmp_path: Path
) -> None:
    pictures, steps = folder / "pictures", deit.metadata.preprocessing
    array = tmp_path / "images.npz"
    np.savez(array, images=steps.normalise(synthetic_images(6, 28)))
    out = tmp_path / "made" / "out.png"
    sources = [pictures / "4.png", pictures, array]
    result = visualize_images(model, sources, out, count=2, scores=True, top=4)
    names = [image.name for image in result.images]
    assert names == ["4.png", "0.png", "2.png", "images.npz, image 0", "images.npz, image 3"]
    assert (result.num_tokens, result.keep_counts) == (49, (34, 24, 14))
    assert all(len(image.classes) == 4 for image in result.images)
    with Image.open(out) as sheet:
        assert sheet.size == result.size
        assert sheet.mode == "RGB"
        assert sheet.height > 5 * 2 * 224
    assert json.dumps(dataclasses.asdict(result))


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "OUT.JPEG"])
def test_the_suffix_says_which_file_is_written(
    model: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    visualize_images(model, folder / "pictures" / "0.png", tmp_path / name)
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format == ("PNG" if name.endswith("png") else "JPEG")


def test_a_folder_gives_eight_evenly_spread(deit: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", images=np.zeros((80, 28, 28, 3), np.uint8))
    (chosen,) = find_images([tmp_path / "many.npz"], deit.metadata)
    assert chosen.places == tuple(range(0, 80, 10))


def test_the_picture_is_named_after_the_model(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert visualize_images(model, folder / "pictures", count=1).output == "tiny.png"
    assert (tmp_path / "here" / "tiny.png").is_file()


def test_no_pytorch_is_needed(model: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["visualize", str(model), str(folder / "pictures"), "-o", "out.png", "--scores"]
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from dynexport.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as left: print(left.code, 'dynexport.models' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert (tmp_path / "out.png").is_file()


def test_the_command_tells_what_it_drew(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    common = ["visualize", str(model), str(folder / "pictures"), "--count", "2", "-o", str(out)]
    with pytest.raises(SystemExit, match="0"):
        main([*common, "-q"])
    told = capsys.readouterr().out
    assert "49 -> 34 -> 24 -> 14 tokens" in told
    assert "0.png" in told
    assert "2.png" in told
    assert f"wrote {out}" in told
    with pytest.raises(SystemExit, match="0"):
        main([*common, "--json", "--top", "1"])
    result = json.loads(capsys.readouterr().out)
    assert [image["name"] for image in result["images"]] == ["0.png", "2.png"]
    ((name, probability),) = result["images"][0]["classes"]
    assert name.startswith("class ")
    assert 0.1 <= probability <= 1.0


# ---------------------------------------------------------------- labels


def test_classes_are_called_by_the_file(model: Path, folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "names.txt"
    names = [f"Nämé {number}" for number in range(10)]
    labels.write_text("\n".join(names) + "\n\n", encoding="utf-8-sig")
    images = (folder / "pictures", tmp_path / "out.png")
    named = visualize_images(model, *images, labels=labels)
    plain = visualize_images(model, *images)
    for one, other in zip(named.images, plain.images, strict=True):
        for (name, share), (number, same) in zip(one.classes, other.classes, strict=True):
            assert name == names[int(number.removeprefix("class "))]
            assert share == same


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\nb\n", "holds 2 names, and the model knows 10 classes: give one name a line"),
        (b"", "holds 0 names"),
        (b"\xff\xfe\x00", "is no text in UTF-8: expected the name of one class a line"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_labels(tmp_path / "names.txt", 10)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "tench"),
        (207, "golden retriever"),
        (281, "tabby"),
        (388, "giant panda"),
        (817, "sports car"),
        (999, "toilet tissue"),
    ],
)
def test_a_thousand_classes_are_imagenets(number: int, name: str) -> None:
    names = name_classes(1000)
    assert len(names) == 1000
    assert all(names)
    assert names[number] == name


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"output": "out.gif"}, r"out.gif ends in none of .png, .jpg, .jpeg: name a picture"),
        ({"output": "pictures/0.png", "images": ["pictures"]}, "0.png would be overwritten"),
        ({"images": []}, "no images were given"),
        ({"images": ["gone.png"]}, "gone.png does not exist: expected a picture, a folder of"),
        ({"images": ["text.png"]}, "text.png is not a readable image"),
        ({"images": ["cut.png"]}, "cut.png is not a readable image"),
        ({"images": ["large.png"]}, "large.png is 56 x 56: this model takes images of exactly"),
        ({"images": ["empty"]}, "no images in"),
        ({"images": ["text.npz"]}, "text.npz is no folder and no .npz"),
        ({"images": ["pictures"], "count": 0}, "0 images were asked for"),
        ({"top": -1}, "`top` -1 asks for fewer than no classes"),
        ({"font": "text.png"}, "text.png is no font that can be read"),
        ({"labels": "text.png"}, "holds 1 names, and the model knows 10 classes"),
        ({"backend": "onnxruntime", "engine": "e.engine"}, "give one of the two"),
        ({"backend": "onnxruntim"}, "did you mean 'onnxruntime'"),
        ({"engine": "gone.engine"}, "gone.engine does not exist"),
        ({"model": "text.png"}, "is not a complete ONNX file"),
    ],
)
def test_what_cannot_be_drawn(
    model: Path, folder: Path, tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    """One sentence each, and nothing is written."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "empty").mkdir()
    content = (folder / "pictures" / "0.png").read_bytes()
    (tmp_path / "pictures" / "0.png").write_bytes(content)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    for name in ("text.png", "text.npz"):
        (tmp_path / name).write_text("no picture")
    Image.new("RGB", (56, 56)).save(tmp_path / "large.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given: dict[str, Any] = {"model": model, "images": ["pictures"], "output": "out.png"}
    for name, value in (given | options).items():
        in_folder = name in ("output", "labels", "font", "engine", "model")
        given[name] = tmp_path / value if in_folder else value
    given["images"] = [tmp_path / name for name in given["images"]]
    with pytest.raises(DynexportError, match=problem) as refused:
        visualize_images(**given)
    assert "\n" not in str(refused.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_engine_that_cannot_run_here(model: Path, folder: Path, tmp_path: Path) -> None:
    try:
        cuda.current_device()
    except DeviceError:
        pass
    else:
        pytest.skip("a GPU is here")
    engine, out = tmp_path / "tiny.engine", tmp_path / "out.png"
    build_engine(model, edition="tensorrt-rtx", output=engine)
    with pytest.raises(DeviceError, match="no NVIDIA driver is installed: engines run on an"):
        visualize_images(model, folder / "pictures", out, engine=engine)
    assert not out.exists()


def test_rows_that_are_no_tokens_are_told(deit: Tiny, tmp_path: Path) -> None:
    """A stage that selects more of them than are left, by metadata that do not fit."""
    facts = dataclasses.replace(deit.metadata, keep_counts=(34, 24, 24))
    graph = deit.graph.clone()
    graph.metadata_props.update(facts.to_properties())
    with pytest.raises(ModelFileError, match=r"stage 3 of .* keeps rows that are no tokens: `dyn"):
        look_at(artifact_of(deit, tmp_path, graph), deit.bundle.images)


def test_more_images_than_a_file_holds(deit: Tiny) -> None:
    with pytest.raises(
        InputError,
        match=r"1000 images make a picture of 1,\d+ x 2\d\d,\d+ pixels, and a file holds 65",
    ):
        plan_layout(deit.metadata, scores=False, classes=3, images=1000)
    layout = plan_layout(deit.metadata, scores=True, classes=3, images=100)
    assert 100 * layout.height < LARGEST_SIDE
    with pytest.raises(InputError, match="no image to draw"):
        draw_strips((), deit.metadata)
    odd = dataclasses.replace(deit.metadata, num_tokens=50)
    with pytest.raises(InputError, match="50 tokens, which form no square grid"):
        plan_layout(odd, scores=False, classes=3)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("grey", [0, 33, 128, 149, 151, 196, 233, 255])
def test_dropped_patches_show_on_any_grey(grey: int) -> None:
    picture = np.full((112, 112, 3), grey, np.uint8)
    drawn = dim_dropped(picture, np.array([0]), 4)
    assert (drawn[:56, :56] == grey).all()
    outside = np.delete(drawn.reshape(2, 56, 2, 56, 3).swapaxes(1, 2).reshape(4, -1, 3), 0, axis=0)
    away = np.abs(outside.astype(int) - grey).max(axis=2)
    assert (away >= 12).mean() > 0.15  # the hatching at least
    assert len(np.unique(outside.reshape(-1, 3), axis=0)) == 3  # grey, hatching, the line


def test_the_line_runs_outside_what_is_kept() -> None:
    kept = patch_mask(np.array([4, 9]), 9, 9)  # the middle one; position 9 is no patch
    assert kept.sum() == 9
    assert kept[3:6, 3:6].all()
    rim = rim_of(kept)
    assert rim.sum() == 16
    assert not (rim & kept).any()
    drawn = dim_dropped(np.zeros((9, 9, 3), np.uint8), np.array([4]), 9)
    assert (drawn[rim] == VERMILION).all()


def test_sides_that_are_no_multiple_of_the_grid() -> None:
    mask = patch_mask(np.array([0, 8]), 9, 10)
    assert mask.any()
    assert mask.sum() < 50
    assert mask.shape == (10, 10)


def test_a_heat_map_is_not_spoiled_by_one_score() -> None:
    scores = np.linspace(-1.0, 1.0, 100)
    scores[99], scores[50] = 1e30, np.nan
    drawn = colour_scores(scores, np.arange(100), 10).reshape(100, 3).astype(int)
    assert tuple(drawn[50]) == UNRANKED
    assert tuple(drawn[0]) == tuple(VIRIDIS[0])
    assert tuple(drawn[99]) == tuple(VIRIDIS[-1])
    rising = np.delete(drawn, 50, axis=0) @ [0.299, 0.587, 0.114]
    assert (np.diff(rising) >= 0).all()
    assert len(np.unique(drawn, axis=0)) > 80


def test_equal_scores_have_one_colour() -> None:
    for scores in (np.full(4, 2.0), np.full(4, np.nan)):
        assert len(np.unique(colour_scores(scores, np.arange(4), 8).reshape(-1, 3), axis=0)) == 1


def test_viridis_grows_lighter_evenly() -> None:
    lightness = viridis(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()
    assert viridis(np.zeros((2, 3))).shape == (2, 3, 3)


@pytest.mark.parametrize("tile", [28, 84, 300, 900])
def test_text_has_room_at_any_size(deit: Tiny, tile: int) -> None:
    layout = plan_layout(deit.metadata, scores=True, classes=5, tile=tile)
    assert layout.tile % 28 == 0
    assert layout.tile <= tile
    assert 12 <= layout.text <= 20
    assert layout.column > layout.font.getlength("34 of 49, 69%")
    name = "n02099601/a_very_long_name" * 10
    assert layout.font.getlength(shorten(name, layout.font, 150, layout)) <= 150
    blank = np.zeros((28, 28, 3), np.uint8)
    view = View(blank, (np.arange(34),) * 3, (np.zeros(49),) * 3, ((name, 1.0),) * 5, name)
    sheet = draw_strip(view, deit.metadata, tile=tile)
    edge = np.asarray(sheet)[:, -layout.gap // 2 :]
    assert (edge == 255).all()  # nothing runs over the right margin


def test_names_that_are_not_in_ascii(deit: Tiny) -> None:
    layout = plan_layout(deit.metadata, scores=False, classes=0)
    written = shorten("Schäferhund\n模型 \udcff", layout.font, math.inf, layout)
    assert written == "Schaferhund ?? ?"
    own = dataclasses.replace(layout, file=Path("own.ttf"))
    assert shorten("Schäferhund 模型", layout.font, math.inf, own) == "Schäferhund 模型"


def test_a_font_of_ones_own(model: Path, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.ttf"
    plain = ImageFont.load_default(20)
    assert isinstance(plain, ImageFont.FreeTypeFont)
    own.write_bytes(plain.font_bytes)
    labels, images = tmp_path / "names.txt", folder / "pictures" / "0.png"
    drawn = []
    for letters, font in (("\u6a21", None), ("?", None), ("\u6a21", own)):
        labels.write_text("\n".join(letters * 10), encoding="utf-8")
        visualize_images(model, images, tmp_path / "o.png", labels=labels, font=font)
        drawn.append((tmp_path / "o.png").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]
