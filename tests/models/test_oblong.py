"""Images that are not square: every family, read, proved, and the whole line behind it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made.tiny import TINY, build, evit_loaded, trained_like
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import dynexport
from dynexport.artifact import find_artifact
from dynexport.bench import Plan
from dynexport.conversion import Recipe, convert, open_checkpoint
from dynexport.errors import CheckpointError, InputError
from dynexport.formats.onnx_file import read_metadata
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import ImageSize, Preprocessing, synthetic_images
from dynexport.models import SparseModel, find_family
from dynexport.models.windows import shift_mask, window_order
from dynexport.precision import Precision
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify
from dynexport.pytorch.rewrite import oracle, prove, rewrite
from dynexport.schedule import KeepSchedule
from dynexport.visualize.drawing import dim_dropped
from dynexport.visualize.look import look_at

FAMILIES = ("deit", "lvvit", "swin", "convnext")
RACED = ["onnxruntime sparse", "onnxruntime dense"]
KEEP = KeepSchedule((0.7, 0.5, 0.3))


def oblong(family: str, down: int = 1, across: int = 2) -> SparseModel:
    """A tiny model for images of so many times its usual height and width."""
    height, width = TINY[family]().img_size
    return build(family, 0, img_size=ImageSize(down * height, across * width))


def saved(model: SparseModel, path: Path, **args: object) -> Path:
    told = {"pruning_loc": [1, 2, 3], "num_heads": getattr(model.config, "num_heads", None), **args}
    torch.save({"model": model.state_dict(), "args": told}, path)
    return path


def on_its_side(model: SparseModel) -> SparseModel:
    """The model that sees of a picture turned over its diagonal what this one sees of it."""
    config = model.config
    turned = type(model)(dataclasses.replace(config, img_size=config.img_size[::-1])).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "pos_embed":
            grid = tensor[:, 1:].unflatten(1, config.grid).transpose(1, 2).flatten(1, 2)
            state[name] = torch.cat([tensor[:, :1], grid], dim=1)
        elif name.endswith("relative_position_bias_table"):
            side = round(len(tensor) ** 0.5)
            state[name] = tensor.unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1)
        elif ".downsample." in name:  # the four neighbours, column by column
            corners = tensor.unflatten(-1, (4, -1))
            state[name] = corners[..., [0, 2, 1, 3], :].flatten(-2)
        elif name.endswith(("attn_mask", "relative_position_index")):
            state[name] = turned.state_dict()[name]
        else:
            state[name] = tensor.transpose(-1, -2) if tensor.ndim == 4 else tensor
    turned.load_state_dict(state)
    return turned


def images_for(model: SparseModel, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, *model.config.img_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("down", "across"), [(1, 2), (3, 1), (2, 3)])
def test_rows_and_columns_are_not_mixed_up(family: str, down: int, across: int) -> None:
    model = oblong(family, down, across)
    images = images_for(model)
    with torch.inference_mode():
        upright = oracle(model, KEEP)(images)
        turned = oracle(on_its_side(model), KEEP)(images.transpose(2, 3))
        lean = rewrite(model, KEEP)(images)
    rows, columns = model.config.grid
    for here, there in zip(upright.tokens.kept, turned.tokens.kept, strict=True):
        placed = here % columns * rows + here // columns
        assert placed.sort(dim=1).values.equal(there.sort(dim=1).values)
    assert torch.allclose(upright.logits, turned.logits, atol=1e-4)
    assert torch.allclose(upright.logits, lean.logits, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_read_and_resized(family: str, tmp_path: Path) -> None:
    model = oblong(family)
    size, double = model.config.img_size, [2 * side for side in model.config.img_size]
    for told in (list(size), [3, *size], str(size)):
        loaded = load_checkpoint(saved(model, tmp_path / "x.pth", input_size=told))
        assert identify(loaded)[1].img_size == size
    found, config = identify(loaded, img_size=double)
    assert config.img_size == tuple(double)
    larger = build_model(loaded, found, config)
    proof = prove(larger, rewrite(larger, KEEP), KEEP, images_for(larger))
    assert proof.max_abs_error < 1e-4 * max(1.0, proof.scale)


@pytest.mark.parametrize("family", ["deit", "lvvit"])
def test_positions_are_resized_along_their_own_sides(family: str, tmp_path: Path) -> None:
    model = oblong(family)
    rows, columns = model.config.grid
    with torch.no_grad():
        slope = torch.arange(columns).float().repeat(rows)
        model.pos_embed[0, 1:] = slope[:, None].expand(-1, model.config.embed_dim)
    size = model.config.img_size
    loaded = load_checkpoint(saved(model, tmp_path / "x.pth", input_size=list(size)))
    found, config = identify(loaded, img_size=[2 * side for side in size])
    grid = build_model(loaded, found, config).state_dict()["pos_embed"][0, 1:, 0]
    across = grid.unflatten(0, (2 * rows, 2 * columns))
    assert torch.allclose(across, across[:1].expand_as(across), atol=1e-5)
    inner = across[0, 3:-3].diff()
    assert torch.allclose(inner, torch.full_like(inner, 0.5), atol=0.1)


def test_a_size_that_nobody_told_is_asked_for(tmp_path: Path) -> None:
    path = saved(oblong("deit"), tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match="98 patches, which make no square grid: say the size"
    ):
        identify(load_checkpoint(path))
    assert identify(load_checkpoint(path), img_size="56x28")[1].grid == (14, 7)
    with pytest.raises(CheckpointError, match="98 patches, which make no square grid"):
        identify(load_checkpoint(path), img_size="28x28")


@pytest.mark.parametrize(("size", "window"), [((12, 20), 4), ((7, 9), 3), ((8, 5), 4)])
def test_windows_of_a_shifted_map_hold_neighbours_alone(size: tuple[int, int], window: int) -> None:
    """Two positions see each other if they share a window and the shift tore neither away."""
    shift = window // 2
    order, back = window_order(size, window, shift)
    total = size[0] * size[1]
    assert torch.equal(order[back], torch.arange(total))
    windows = order.reshape(-1, window * window)
    for rows, mask in zip(windows, shift_mask(size, window, shift), strict=True):
        for first, one in enumerate(rows.tolist()):
            for second, other in enumerate(rows.tolist()):
                if total in (one, other):
                    continue
                near = all(
                    abs(a - b) < window
                    for a, b in zip(divmod(one, size[1]), divmod(other, size[1]), strict=True)
                )
                assert (mask[first, second] == 0) == near


def pictures(folder: Path, size: ImageSize, count: int = 16) -> Path:
    """Pictures of odd sizes, larger than the model's."""
    folder.mkdir()
    drawn = synthetic_images(count, (3 * size.height, 2 * size.width + 5))
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_line(family: str, tmp_path: Path) -> None:
    model = oblong(family)
    size = model.config.img_size
    checkpoint = saved(model, tmp_path / "wide view.pth", input_size=list(size))
    onnx = tmp_path / "wide view.onnx"
    images = pictures(tmp_path / "pictures", size)
    made = convert(Recipe(checkpoint, ratio=0.7, images=images, output=onnx))
    assert made.metadata.grid == model.config.grid
    assert ReferenceBundle.load(made.reference).images.shape[1:] == (*size, 3)
    assert dynexport.verify_model(onnx, checkpoint=checkpoint).passed

    drawn = tmp_path / "kept.png"
    dynexport.visualize_images(onnx, images, drawn)
    assert Image.open(drawn).width > 4 * size.width
    for view in look_at(find_artifact(onnx), ReferenceBundle.load(made.reference).images[:2]):
        for kept in view.kept:
            require_dimmed(view.picture, kept, model.config.grid)

    plan = Plan(rounds=2, round_seconds=0.01)
    timed = dynexport.bench_model(onnx, pytorch=False, plan=plan)
    assert [one.label for one in timed.batches[0].timings] == RACED
    calibrated = Precision("int8", calibration_data=images)
    typed = Recipe(checkpoint, ratio=0.7, precision=calibrated, output=tmp_path / "8.onnx")
    assert convert(dataclasses.replace(typed, images=images)).verification.passed
    for batch in ("2", "1:2:4"):
        standard = Recipe(checkpoint, ratio=0.7, target="tensorrt", batch=batch)
        file = tmp_path / f"rtx-{batch[-1]}.onnx"
        convert(dataclasses.replace(standard, output=file))
        engine = dynexport.build_engine(
            file, edition="tensorrt-rtx", output=file.with_suffix(".engine")
        )
        assert tuple(engine.facts.input_shape) == (3, *size)


def require_dimmed(
    picture: NDArray[np.uint8], kept: NDArray[np.int64], grid: tuple[int, int]
) -> None:
    """Kept patches are the picture's, the others nearly nowhere."""
    shown = dim_dropped(picture, kept, grid)
    rows, columns = (side // count for side, count in zip(picture.shape, grid, strict=False))
    for place in range(grid[0] * grid[1]):
        top, left = place // grid[1] * rows, place % grid[1] * columns
        here = (slice(top, top + rows), slice(left, left + columns))
        same = (shown[here] == picture[here]).all(axis=-1)
        assert same.all() if place in kept else same.mean() < 0.5


def test_a_picture_is_scaled_until_it_covers_an_oblong_input() -> None:
    steps = Preprocessing.for_size((224, 448), crop_pct=0.875)
    assert (steps.img_size, steps.resize) == ((224, 448), (256, 512))
    ramp = np.linspace(0, 255, 1000)[None, :, None] * np.ones((300, 1, 3))
    seen = steps.crop(Image.fromarray(ramp.astype(np.uint8)))
    assert seen.shape == (224, 448, 3)
    shown = 448 / 256 * 300 / 1000  # of the width, as the height is what must be covered
    assert abs(int(seen.min()) - 255 * (1 - shown) / 2) < 2
    assert abs(int(seen.max()) - 255 * (1 + shown) / 2) < 2
    tall = steps.crop(
        Image.fromarray(np.ascontiguousarray(ramp.astype(np.uint8).transpose(1, 0, 2)))
    )
    assert tall.shape == (224, 448, 3)
    exact = Preprocessing.for_size((28, 32))
    assert exact.resize is None


def test_a_size_is_told_as_height_and_width(tmp_path: Path) -> None:
    recipe = Recipe(saved(oblong("deit"), tmp_path / "x.pth"), img_size="28x56", ratio=0.7)
    assert open_checkpoint(recipe).config.img_size == (28, 56)
    assert recipe.to_command().endswith("--img-size 28x56")
    for size in ("28x56x3", "0", "28x", "x", "-28", "28.5", ""):
        with pytest.raises(InputError, match="is not valid: write pixels, 224, or HEIGHTxWIDTH"):
            Recipe("x.pth", img_size=size)


def test_metadata_of_before_tell_a_square(tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    convert(Recipe(saved(build("deit", 0), tmp_path / "x.pth"), ratio=0.7, output=out))
    facts = read_metadata(out)
    told = facts.to_properties()
    del told["dynexport.grid"]
    steps = json.loads(told["dynexport.preprocessing"])
    told["dynexport.preprocessing"] = json.dumps({**steps, "img_size": 28})
    assert type(facts).from_properties(told, "old") == facts


def test_an_evit_of_oblong_images() -> None:
    with evit_loaded():
        family = find_family("evit")
        config = dataclasses.replace(TINY["evit"](), img_size=(28, 56))
        model = family.model(config).eval()
        trained_like(model, 0)
        proof = prove(model, rewrite(model, KEEP), KEEP, images_for(model))
    assert proof.max_abs_error < 1e-4 * max(1.0, proof.scale)
