"""A recipe: checked when it is made, and written as a command that makes the same again."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from dynexport.cli import main
from dynexport.conversion import Recipe
from dynexport.errors import DynexportError, InputError
from dynexport.precision import Precision

HALF = Precision("fp16", io="half")
INT8 = Precision(
    "int8-fp16",
    io="half",
    calibration_data="my images",
    calibration_images=100,
    seed=0,
    methods=("mse", "min-max"),
    fallback_to="auto",
    target_agreement=0.95,
)
RECIPES = (
    Recipe("my ckpt.pth"),
    Recipe("c.pth", ratio=0.7, batch="1:8:64", emit_kept=True, opset=21, target="tensorrt"),
    Recipe("c.pth", dense=True, img_size=384, task="features", images="val", output="a b.onnx"),
    Recipe("c.pth", ratios=(1.0, 0.35), prune_at=(3, 6), num_heads=6, plugins=("f.py", "g.py")),
    Recipe("c.pth", ratios="0.9,0.8", align=8, model="deit-s", weights="model_ema", batch=4),
    Recipe("c.pth", precision=HALF, engine="a.engine", edition="tensorrt-rtx"),
    Recipe("c.pth", ratio=0.5, precision=INT8),
    Recipe("c.pth", precision="int8-dynamic", edition="auto"),
    Recipe("c.pth", mean=(0.5,), std=(0.25, 0.5, 0.125), crop_pct=0.9, warp=True),
)


def plain(recipe: Recipe) -> dict[str, Any]:
    """Every setting, however it was written."""
    kept = recipe.stage_ratios()
    values = dataclasses.asdict(dataclasses.replace(recipe, precision=recipe.typing()))
    values |= {"batch": str(recipe.batch), "ratios": kept and kept.ratios}
    told: dict[str, Any] = values.pop("precision")
    values |= told | {"plugins": [*map(str, recipe.plugins)]}
    return {name: str(value) for name, value in values.items()}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.to_command())
def test_the_command_of_a_recipe_makes_the_same_recipe(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    given: list[Recipe] = []

    def convert(recipe: Recipe, **others: Any) -> None:
        given.append(recipe)
        raise InputError("enough was told")

    monkeypatch.setattr("dynexport.conversion.convert", convert)
    program, *words = shlex.split(recipe.to_command())
    assert program == "dynexport"
    with pytest.raises(SystemExit):
        main(words)
    assert [plain(one) for one in given] == [plain(recipe)]


def test_a_command_says_what_is_not_as_usual_alone() -> None:
    assert RECIPES[0].to_command() == "dynexport convert 'my ckpt.pth'"
    assert Recipe("c.pth", batch=8, precision="fp32", opset=20) != RECIPES[0]
    assert Recipe("c.pth", batch=8, precision="fp32").to_command() == (
        "dynexport convert c.pth --batch 8"
    )
    assert Recipe("c.pth", dense=True).to_command() == "dynexport convert c.pth --dense"


@pytest.mark.parametrize(
    ("settings", "problem", "on_the_command_line"),
    [
        ({"batch": "8:1"}, "batch '8:1' is not valid: write one size", None),
        (
            {"dense": True, "ratio": 0.7},
            "`dense` drops nothing, so it takes no `ratio`, `ratios` or `align`",
            "--dense drops nothing, so it takes no --ratio, --ratios or --align",
        ),
        (
            {"ratio": 0.7, "ratios": "0.7,0.5,0.3"},
            "`ratio` and `ratios` were both given: give one of the two",
            "--ratio and --ratios were both given: give one of the two",
        ),
        ({"ratios": "a,b"}, "keep ratios 'a,b' are not numbers", None),
        ({"align": 0, "ratios": "0.7,0.5,0.3"}, "as in `align` 8", "as in --align 8"),
        ({"precision": "fp17"}, "unknown precision 'fp17': did you mean 'fp1", None),
        ({"target": "gpu"}, "unknown target 'gpu': choose from any, tensorrt", None),
        ({"opset": 16}, "opset 16 is not supported: choose from 17", None),
    ],
)
def test_settings_that_do_not_go_together(
    settings: dict[str, Any],
    problem: str,
    on_the_command_line: str | None,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A recipe names parameters, the command line options; either way nothing is read."""
    with pytest.raises(DynexportError) as raised:
        Recipe(tmp_path / "none.pth", **settings)
    assert problem in str(raised.value)
    words = [
        word
        for name, value in settings.items()
        for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]
    with pytest.raises(SystemExit) as left:
        main(["convert", str(tmp_path / "none.pth"), *words])
    assert left.value.code == 2
    assert (on_the_command_line or problem) in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, "1:8:64"),
        ({"precision": "int8-dynamic"}, "1:8:64"),
        ({"batch": 4}, "4"),
        ({"batch": "8"}, "8"),
        ({"target": "tensorrt"}, "8"),
        ({"target": "tensorrt", "batch": "1:2:3"}, "1:2:3"),
        ({"engine": "a.engine"}, "8"),
        ({"edition": "auto"}, "8"),
        ({"precision": "fp16"}, "8"),
    ],
)
def test_a_file_takes_any_batch_unless_it_is_for_a_gpu(settings: dict, sizes: str) -> None:
    """TensorRT joins fewer operators where the batch is open."""
    assert str(Recipe("c.pth", **settings).sizes()) == sizes
