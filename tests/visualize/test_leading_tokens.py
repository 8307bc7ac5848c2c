"""Where several tokens lead the patches, the patches that are shown are still the right ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from made.tiny import build, forget_positions
from made.variants import WHOLE_LINE
from numpy.typing import NDArray

from dynexport.artifact import find_artifact
from dynexport.conversion import Recipe, convert
from dynexport.visualize.drawing import patch_mask
from dynexport.visualize.look import look_at

pytestmark = pytest.mark.slow

MARKED = (8, 9, 15, 22, 29, 30, 31, 40)
"""Positions of a 7 x 7 grid, no two rows or columns alike: a shift by any number would show."""


COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def pictures() -> NDArray[np.uint8]:
    """The marked patches in one colour, all others in another: uint8 (30, 28, 28, 3)."""
    drawn = []
    for marked, others in itertools.permutations(COLOURS, 2):
        grid = np.array([others] * 49, dtype=np.uint8)
        grid[list(MARKED)] = marked
        drawn.append(grid.reshape(7, 7, 3).repeat(4, 0).repeat(4, 1))
    return np.stack(drawn)


@pytest.mark.parametrize("name", ["distilled", "dinov2", "timm-reg-gap", "no-leading"])
def test_a_planted_pattern_is_what_is_kept(name: str, tmp_path: Path) -> None:
    """Without positions, patches that look alike score alike, marked ones above or below: so
    where they are above in a picture, exactly they are kept, by every stage."""
    model = build("deit", 0, **WHOLE_LINE[name][1])
    forget_positions(model)
    path, onnx = tmp_path / "x.pth", tmp_path / "x.onnx"
    torch.save({"model": model.state_dict(), "args": {"pruning_loc": [1, 2, 3]}}, path)
    share = (len(MARKED) + 0.5) / 49
    convert(Recipe(path, ratios=(share,) * 3, num_heads=2, batch="1:2:4", output=onnx))
    views = look_at(find_artifact(onnx), pictures(), scores=True)
    rest = np.setdiff1d(np.arange(49), MARKED)
    marks = [
        view for view in views if view.scores[0][list(MARKED)].min() > view.scores[0][rest].max()
    ]
    assert marks, "in no picture do the marked patches score higher"
    for view in marks:
        assert [sorted(kept.tolist()) for kept in view.kept] == [sorted(MARKED)] * 3
        bright = patch_mask(view.kept[-1], (7, 7), (28, 28))
        assert np.array_equal(bright, (view.picture == view.picture[4, 4]).all(axis=-1))
