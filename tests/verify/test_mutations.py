"""The proof that verification works: every harmful damage is caught, no sound file is accused."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from damages import DAMAGES, PARTS, Damage, Patient, choosing, computing
from made.tiny import (
    TINY,
    Tiny,
    answers_for,
    build,
    convert_tiny,
    forget_positions,
    level_scores,
    refill,
    remember,
    take_batches,
    typed,
    write,
)
from numpy.typing import NDArray

from dynexport import artifact
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import ImageSize, synthetic_images
from dynexport.models import SparseModel
from dynexport.runtimes import Runner, open_runner
from dynexport.verify import Verification, verify_model

pytestmark = pytest.mark.slow

USUAL = {
    "deit": (0.7, 0.49, 0.343),
    "lvvit": (0.7, 0.49, 0.343),
    "swin": (0.7, 0.5, 0.3),
    "convnext": (0.7, 0.5, 0.3),
    "evit": (0.7, 0.7, 0.7),
}
"""Keep ratios, as published."""

EXTREME = {"deit": (1.0, 0.5, 0.021), "convnext": (1.0, 0.5, 0.016), "evit": (0.9, 0.5, 0.03)}
"""All tokens, half, one, for each kind of selection. EViT cannot keep all: some are fused."""

ROUNDING = {"fp32": 1.3e-4, "fp16": 8e-3, "int8": 0.12}
"""By precision the largest relative error of a sound model below, its length to the logits'."""

DEAD = " gives every token the same score in PyTorch"
"""Told of a stage whose predictor chooses nothing."""

Convert = Callable[[str, Any], Tiny]
Grade = Callable[[str, str], ir.Model]
Bundle = Callable[[str, str], ReferenceBundle]
Judge = Callable[[Damage, str, str], Verification]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of a few microseconds' work do not wait for each other's threads."""

    def open_on_one(runtime: str, model: Any, *_: Any) -> Runner:
        return open_runner(runtime, model, threads=1)

    monkeypatch.setattr(artifact, "open_runner", open_on_one)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Convert]:
    """A family's tiny model at keep ratios, converted when it is first asked for.

    What an export leaves in memory stays there, so the garbage collector need not look at it again
    in every test: that would take a third of their time.
    """
    made: dict[Any, Tiny] = {}

    def convert(family: str, ratios: Any) -> Tiny:
        if (family, ratios) not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family, ratios] = convert_tiny(folder, family, ratios, batch="1:3:5")
            gc.collect()
            gc.freeze()
        return made[family, ratios]

    yield convert
    gc.unfreeze()


@pytest.fixture(scope="session")
def graded(converted: Convert) -> Grade:
    """A family's tiny graph in a precision."""
    made: dict[tuple[str, str], ir.Model] = {}

    def grade(family: str, precision: str) -> ir.Model:
        if (family, precision) not in made:
            tiny = converted(family, USUAL[family])
            made[family, precision] = typed(tiny, precision)
        return made[family, precision].clone()

    return grade


CASES = [(damage, *place) for damage in DAMAGES for place in damage.places()]


def cases(verdict: str) -> list[Any]:
    return [
        pytest.param(damage, family, precision, id=f"{damage.name}-{family}-{precision}")
        for damage, family, precision in CASES
        if damage.verdict(family, precision) == verdict
    ]


@pytest.fixture(scope="session")
def bundled(converted: Convert, graded: Grade) -> Bundle:
    """The bundle of a family's tiny graph in a precision; int8's own answers are in it."""
    made: dict[str, ReferenceBundle] = {}

    def bundle(family: str, precision: str) -> ReferenceBundle:
        tiny = converted(family, USUAL[family])
        if precision != "int8":
            return tiny.bundle
        if family not in made:
            made[family] = remember(tiny, graded(family, precision))
        return made[family]

    return bundle


def damaged(damage: Damage, family: str, tiny: Tiny, graph: ir.Model, folder: Path) -> Verification:
    """What verification says of a graph, damaged in place."""
    damage.damage(Patient(graph, tiny.metadata, PARTS[family]))
    return verify_model(write(folder, graph, tiny.bundle))


@pytest.fixture
def judged(converted: Convert, graded: Grade, bundled: Bundle, tmp_path: Path) -> Judge:
    """What verification says of a family's tiny graph in a precision, once it is damaged."""

    def judge(damage: Damage, family: str, precision: str) -> Verification:
        tiny, bundle = converted(family, USUAL[family]), bundled(family, precision)
        tiny = dataclasses.replace(tiny, bundle=bundle)
        return damaged(damage, family, tiny, graded(family, precision), tmp_path)

    return judge


@pytest.mark.parametrize(("damage", "family", "precision"), cases("caught"))
def test_a_harmful_damage_is_caught(
    damage: Damage, family: str, precision: str, judged: Judge
) -> None:
    result = judged(damage, family, precision)
    assert not result.passed
    assert any(failure.startswith(damage.shows) for failure in result.failures), result.failures


@pytest.mark.parametrize(("damage", "family", "precision"), cases("harmless"))
def test_what_does_no_harm_passes(
    damage: Damage, family: str, precision: str, judged: Judge
) -> None:
    result = judged(damage, family, precision)
    assert result.passed, result.failures


@pytest.mark.parametrize(("damage", "family", "precision"), cases("drowned"))
def test_what_drowns_in_rounding_is_small(
    damage: Damage, family: str, precision: str, judged: Judge
) -> None:
    """Not that it passes: that it does no more than is stated beside it."""
    result = judged(damage, family, precision)
    bound = damage.drowned_in(family, precision)
    assert result.errors["logits"].l2 < bound.logits
    assert max(stage.inversion for stage in result.stages) < bound.inversion
    assert bound.logits <= ROUNDING[precision]
    assert all(stage.misranked == 0 for stage in result.stages)


def test_few_damages_drown() -> None:
    """The table is a list of what verification cannot tell: it does not grow unseen."""
    drowned = [(one.name, *at) for one, *at in CASES if one.verdict(*at) == "drowned"]
    assert len(CASES) == 285
    assert len(drowned) == 7
    assert [case for case in drowned if case[2] == "fp32"] == [
        ("round_gelu_by_tanh", "evit", "fp32")
    ]


def test_damages_and_models_are_many_and_told_apart() -> None:
    names = [damage.name for damage in DAMAGES]
    assert len(set(names)) == len(names)
    harmful = {case[0].name for case in CASES if case[0].verdict(*case[1:]) == "caught"}
    assert len(harmful) >= 40
    assert {family for _, family, _ in CASES} == set(TINY)
    assert len(MODELS) == 100


@pytest.mark.parametrize("family", TINY)
def test_a_fault_shows_where_every_image_holds_a_tie(
    family: str, converted: Convert, tmp_path: Path
) -> None:
    """All tokens score alike: no choice is wrong, what is wrong is wrong under each, and either
    way it is told that the predictors are dead."""
    trained = build(family, seed=1)
    level_scores(trained)
    tiny = refill(converted(family, USUAL[family]), trained)
    tiny = answers_for(tiny, noise(np.random.default_rng(0), 4, trained.config.img_size))
    other = choosing.take_the_next_best_for_the_last
    another_choice = damaged(Damage(other), family, tiny, tiny.graph.clone(), tmp_path)
    dead = [f"stage {stage}{DEAD}" for stage in (1, 2, 3)]
    assert [failure[: len(dead[0])] for failure in another_choice.failures] == dead
    result = damaged(Damage(computing.drop_a_bias), family, tiny, tiny.graph.clone(), tmp_path)
    assert [failure[: len(dead[0])] for failure in result.failures[:-1]] == dead
    assert result.failures[-1].startswith("logits differs by")


def test_a_dense_model_of_one_class(tmp_path: Path) -> None:
    """Nothing is chosen and nothing classified: numbers are all there is."""
    tiny = convert_tiny(tmp_path, "deit", None, batch="1:3:5", num_classes=1)
    assert verify_model(write(tmp_path, tiny.graph, tiny.bundle)).passed
    result = damaged(Damage(computing.weigh_two_per_cent_more), "deit", tiny, tiny.graph, tmp_path)
    assert [failure[:17] for failure in result.failures] == ["logits differs by"]


def smooth(rng: np.random.Generator, count: int, size: ImageSize) -> NDArray[Any]:
    return synthetic_images(count, size, seed=int(rng.integers(1000)))


def noise(rng: np.random.Generator, count: int, size: ImageSize) -> NDArray[Any]:
    return rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)


def normalised_noise(rng: np.random.Generator, count: int, size: ImageSize) -> NDArray[Any]:
    return rng.standard_normal((count, 3, *size)).astype(np.float32)


def one_colour(rng: np.random.Generator, count: int, size: ImageSize) -> NDArray[Any]:
    """Images whose patches are all alike, one of them black."""
    colours = rng.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    colours[0] = 0
    return np.ascontiguousarray(np.broadcast_to(colours, (count, *size, 3)))


def repeated(rng: np.random.Generator, count: int, size: ImageSize) -> NDArray[Any]:
    """Images of two patches in turn."""
    patches = rng.integers(0, 256, (count, 4, 8, 3), dtype=np.uint8)
    return np.tile(patches, (1, size.height // 4, -(-size.width // 8), 1))[:, :, : size.width]


IMAGES = (smooth, noise, normalised_noise, one_colour, repeated)


def leave(model: SparseModel) -> None:
    """Scores as they come."""


TIES = (leave, level_scores, forget_positions)
BATCHES = ("1", "2", "3", "1:2:5", "2:4:7")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MODELS = [(f, USUAL[f], draw) for f in USUAL for draw in range(14)]
MODELS += [(f, EXTREME[f], draw) for f in EXTREME for draw in range(10)]


def precision_for(family: str, draw: int) -> str:
    """In turn; but an EViT's fused token is the difference of two sums, of which half precision
    leaves too little where few tokens are dropped."""
    choices = ("fp32", "int8") if family == "evit" else PRECISIONS
    return choices[(draw + list(TINY).index(family)) % len(choices)]


@pytest.mark.parametrize(("family", "ratios", "draw"), MODELS)
def test_a_sound_model_is_not_accused(
    family: str, ratios: tuple[float, ...], draw: int, converted: Convert, tmp_path: Path
) -> None:
    """A hundred random models, each on images of its own, many with tokens that score alike.

    Those whose predictors are dead are told to be, and of nothing else.
    """
    rng = np.random.default_rng([draw, list(TINY).index(family), int(1000 * ratios[2])])
    tiny = converted(family, ratios)
    trained = build(family, seed=int(rng.integers(2**31)))
    TIES[draw % 3](trained)
    pictures = IMAGES[draw % 5] if draw % 3 != 2 else IMAGES[3 + draw % 2]
    images = pictures(rng, int(rng.integers(1, 8)), tiny.metadata.preprocessing.img_size)
    tiny = take_batches(answers_for(refill(tiny, trained), images), str(rng.choice(BATCHES)))
    result = verify_model(write(tmp_path, typed(tiny, precision_for(family, draw)), tiny.bundle))
    accused = [failure for failure in result.failures if DEAD not in failure]
    assert not accused
    dead = TIES[draw % 3] is level_scores and pictures not in (one_colour, repeated)
    assert result.passed != dead
