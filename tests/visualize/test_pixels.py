"""Pictures pixel by pixel."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from made.tiny import Tiny
from PIL import ImageFont

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
from dynexport.visualize.strips import draw_strip, plan_layout, shorten


@pytest.mark.parametrize("grey", [0, 33, 128, 149, 151, 196, 233, 255])
def test_dropped_patches_show_on_any_grey(grey: int) -> None:
    picture = np.full((112, 112, 3), grey, np.uint8)
    drawn = dim_dropped(picture, np.array([0]), (2, 2))
    assert (drawn[:56, :56] == grey).all()
    outside = np.delete(drawn.reshape(2, 56, 2, 56, 3).swapaxes(1, 2).reshape(4, -1, 3), 0, axis=0)
    away = np.abs(outside.astype(int) - grey).max(axis=2)
    assert (away >= 12).mean() > 0.15  # the hatching at least
    assert len(np.unique(outside.reshape(-1, 3), axis=0)) == 3  # grey, hatching, the line


def test_the_line_runs_outside_what_is_kept() -> None:
    kept = patch_mask(np.array([4, 9]), (3, 3), (9, 9))  # the middle one; position 9 is no patch
    assert kept.sum() == 9
    assert kept[3:6, 3:6].all()
    rim = rim_of(kept)
    assert rim.sum() == 16
    assert not (rim & kept).any()
    drawn = dim_dropped(np.zeros((9, 9, 3), np.uint8), np.array([4]), (3, 3))
    assert (drawn[rim] == VERMILION).all()


def test_sides_that_are_no_multiple_of_the_grid() -> None:
    mask = patch_mask(np.array([0, 8]), (3, 3), (10, 10))
    assert mask.any()
    assert mask.sum() < 50
    assert mask.shape == (10, 10)


def test_a_heat_map_is_not_spoiled_by_one_score() -> None:
    scores = np.linspace(-1.0, 1.0, 100)
    scores[99], scores[50] = 1e30, np.nan
    drawn = colour_scores(scores, np.arange(100), (10, 10), (10, 10)).reshape(100, 3).astype(int)
    assert tuple(drawn[50]) == UNRANKED
    assert tuple(drawn[0]) == tuple(VIRIDIS[0])
    assert tuple(drawn[99]) == tuple(VIRIDIS[-1])
    rising = np.delete(drawn, 50, axis=0) @ [0.299, 0.587, 0.114]
    assert (np.diff(rising) >= 0).all()
    assert len(np.unique(drawn, axis=0)) > 80


def test_equal_scores_have_one_colour() -> None:
    for scores in (np.full(4, 2.0), np.full(4, np.nan)):
        assert (
            len(
                np.unique(
                    colour_scores(scores, np.arange(4), (2, 2), (8, 8)).reshape(-1, 3), axis=0
                )
            )
            == 1
        )


def test_viridis_grows_lighter_evenly() -> None:
    lightness = viridis(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()
    assert viridis(np.zeros((2, 3))).shape == (2, 3, 3)


@pytest.mark.parametrize("tile", [28, 84, 300, 900])
def test_text_has_room_at_any_size(deit: Tiny, tile: int) -> None:
    layout = plan_layout(deit.metadata, scores=True, classes=5, tile=tile)
    assert layout.tile.square
    assert layout.tile.width % 28 == 0
    assert layout.tile.width <= tile
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
