"""int8 beside itself: held to its own rounding, and to the answers it gave when it was made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from damages import PARTS, Patient, choosing, computing
from made.sound import RATIOS, sound_model, verify_sound
from made.tiny import Tiny, convert_tiny, remember, typed, write

from dynexport.artifact import find_artifact
from dynexport.calibration.rounding import compare_under_one_choice
from dynexport.compare.tolerances import Limits, OwnRounding, apply_limits, hold_to_rounding
from dynexport.errors import CalibrationError, InputError, ModelFileError
from dynexport.formats.metadata import PREFIX
from dynexport.formats.reference import ReferenceBundle
from dynexport.precision import MULTIPLE, choose_tolerances
from dynexport.verify import verify_artifact, verify_model

pytestmark = pytest.mark.slow

INT8 = choose_tolerances("int8")

ROUNDING = OwnRounding(72, outputs=0.01, ranking=0.1)

BESIDE = ", beside its own when it was made"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return convert_tiny(tmp_path_factory.mktemp("deit"), "deit", RATIOS["deit"], batch="1:3:5")


@pytest.fixture(scope="module")
def graph(tiny: Tiny) -> ir.Model:
    return typed(tiny, "int8")


@pytest.fixture(scope="module")
def bundle(tiny: Tiny, graph: ir.Model) -> ReferenceBundle:
    return remember(tiny, graph)


@pytest.mark.parametrize("backend", [None, "openvino"])
def test_a_sound_file_repeats_itself_in_every_runtime(
    graph: ir.Model, bundle: ReferenceBundle, tmp_path: Path, backend: str | None
) -> None:
    result = verify_model(write(tmp_path, graph, bundle), backend=backend)
    assert result.passed, result.failures
    assert result.own is not None
    own, rounding = result.tolerances.own, said_of(graph)["rounding"]
    assert own is not None
    assert own.outputs == pytest.approx(rounding["outputs"] / 2)
    assert result.own.errors["logits"].l2 < (1e-5 if backend is None else own.outputs)
    assert result.tolerances.outputs == min(0.18, MULTIPLE * rounding["outputs"])


def said_of(graph: ir.Model) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(graph.metadata_props[f"{PREFIX}precision"])
    return said


@pytest.mark.parametrize(
    "damage",
    [
        computing.zero_a_third_of_a_projection,
        computing.weigh_every_narrow_layer_five_per_cent_more,
        choosing.add_noise_to_scores,
    ],
)
def test_what_pytorchs_answers_leave_room_for_is_caught(
    tiny: Tiny,
    graph: ir.Model,
    bundle: ReferenceBundle,
    tmp_path: Path,
    damage: Callable[[Patient], None],
) -> None:
    spoilt = graph.clone()
    damage(Patient(spoilt, tiny.metadata, PARTS["deit"]))
    failures = verify_model(write(tmp_path, spoilt, bundle)).failures
    assert any(failure.endswith(BESIDE) for failure in failures)


def test_a_bundle_of_before_has_the_usual_limits(
    tiny: Tiny, graph: ir.Model, bundle: ReferenceBundle, tmp_path: Path
) -> None:
    """Release 0.1.0 recorded none; and what it was measured at is of other images, maybe."""
    assert bundle.own is not None
    others = dataclasses.replace(bundle.own, precision="of another file")
    for one in (tiny.bundle, dataclasses.replace(bundle, own=others)):
        result = verify_model(write(tmp_path, graph, one))
        assert (result.passed, result.own) == (True, None)
        assert result.tolerances == INT8


def test_own_answers_survive_the_file(bundle: ReferenceBundle, tmp_path: Path) -> None:
    path = tmp_path / "again.npz"
    bundle.save(path)
    own, again = bundle.own, ReferenceBundle.load(path).own
    assert own is not None
    assert again is not None
    assert again.precision == own.precision
    assert np.array_equal(again.outputs["logits"], own.outputs["logits"])
    for name in ("kept", "scores"):
        assert all(map(np.array_equal, getattr(again, name), getattr(own, name)))
    assert len(again.kept) == 3


def test_own_answers_that_are_incomplete_are_refused(
    graph: ir.Model, bundle: ReferenceBundle, tmp_path: Path
) -> None:
    assert bundle.own is not None
    two = slice(0, 2)
    short = dataclasses.replace(
        bundle.own, kept=bundle.own.kept[two], scores=bundle.own.scores[two]
    )
    path = write(tmp_path, graph, dataclasses.replace(bundle, own=short))
    with pytest.raises(ModelFileError, match="is not a complete reference bundle"):
        verify_model(path)


@pytest.mark.parametrize("entry", [{"outputs": 0.1}, {**dataclasses.asdict(ROUNDING), "x": 1}, 3])
def test_a_rounding_that_says_nothing_is_refused(
    tiny: Tiny, graph: ir.Model, tmp_path: Path, entry: Any
) -> None:
    odd = graph.clone()
    odd.metadata_props[f"{PREFIX}precision"] = json.dumps({**said_of(graph), "rounding": entry})
    path = write(tmp_path, odd, remember(tiny, odd))
    with pytest.raises(ModelFileError, match="say nothing sound of its rounding"):
        verify_model(path)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_a_rounding_is_a_number(wrong: float) -> None:
    with pytest.raises(InputError, match="has to be a number"):
        OwnRounding(8, wrong, 0.1)
    with pytest.raises(InputError, match="has to be a number"):
        OwnRounding(8, 0.1, wrong)


def test_limits_follow_a_files_own_rounding_to_an_end() -> None:
    held = hold_to_rounding(INT8, ROUNDING, 2.0, 0.5)
    assert (held.outputs, held.tie_margin, held.ranking) == (0.02, INT8.tie_margin, INT8.ranking)
    assert held.own is not None
    assert (held.own.outputs, held.own.tie_margin, held.own.ranking) == (0.005, 0.05, 0.05)
    coarse = hold_to_rounding(INT8, OwnRounding(8, 9.0, 9.0), 2.0, 0.5)
    assert coarse.own == INT8
    assert dataclasses.replace(coarse, own=None) == dataclasses.replace(INT8, outputs=0.18)
    exact = hold_to_rounding(INT8, OwnRounding(8, 0.0, 0.0), 2.0, 0.5)
    assert exact.own is not None
    assert (exact.outputs, exact.own.outputs, exact.own.ranking) == (5e-3, 5e-3, 2e-2)


def test_what_is_accepted_beside_pytorch_is_accepted_beside_itself() -> None:
    held = hold_to_rounding(INT8, ROUNDING, 2.0, 0.5)
    asked = apply_limits(held, Limits(tolerance=0.03, tie_margin=0.2))
    assert asked.own is not None
    assert (asked.outputs, asked.own.outputs) == (0.03, 0.03)
    assert (asked.own.tie_margin, asked.own.ranking) == (0.2, 0.2)
    strict = apply_limits(held, Limits(tolerance=1e-3, tie_margin=0.0))
    assert strict.own == held.own
    assert strict.outputs == 1e-3


def test_a_graph_that_gives_no_numbers_is_not_measured(tiny: Tiny) -> None:
    broken = tiny.graph.clone()
    computing.give_infinity(Patient(broken, tiny.metadata, PARTS["deit"]))
    images = tiny.bundle.inputs(tiny.metadata.preprocessing)[:3]
    with pytest.raises(CalibrationError, match=r"logits of the typed graph: 3 of 30 values are no"):
        compare_under_one_choice(tiny.graph, broken, tiny.metadata, [images])
    same = compare_under_one_choice(tiny.graph, tiny.graph, tiny.metadata, [images])
    assert same.images == 3
    assert same.outputs < 1e-6 > same.ranking


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-fp16", "int8-dynamic"])
def test_a_sound_model_is_not_accused(tiny: Tiny, tmp_path: Path, precision: str) -> None:
    """One of the hundred a precision that `made.sound` counts."""
    result = verify_sound(sound_model(tiny, "deit", 0), precision, tmp_path)
    assert result.passed, result.failures
    assert (result.own is not None) == precision.startswith("int8")


def test_pytorch_asked_afresh_leaves_its_own_answers_in_force(
    graph: ir.Model, bundle: ReferenceBundle, tmp_path: Path
) -> None:
    """The bundle in hand, whoever gave PyTorch's part of it."""
    artifact = find_artifact(write(tmp_path, graph, bundle), None)
    result = verify_artifact(artifact, bundle, "memory")
    assert result.own is not None
    assert result.tolerances.own is not None
    assert verify_artifact(artifact, bundle, "memory", INT8).own is None
