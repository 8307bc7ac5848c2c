"""Verification: passes what is right, fails what is damaged, tells a tie from a fault."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import random_model, save_checkpoint
from onnx import numpy_helper

from dynexport.artifact import batch_sizes
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.errors import InputError, ModelFileError, VerificationError
from dynexport.formats.metadata import Batch
from dynexport.formats.reference import ReferenceBundle
from dynexport.precision import choose_tolerances
from dynexport.verify import Limits, verify_model


@pytest.fixture
def bundle(tiny_conversion: Conversion) -> ReferenceBundle:
    return ReferenceBundle.load(tiny_conversion.reference)


def damaged(
    conversion: Conversion, folder: Path, change: Callable[[onnx.ModelProto], None]
) -> Path:
    """A changed copy of the ONNX file, its bundle beside it."""
    model = onnx.load(conversion.onnx)
    change(model)
    path = folder / "tiny.onnx"
    onnx.save(model, str(path))
    shutil.copy(conversion.reference, folder)
    return path


def scale(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = next(value for value in model.graph.initializer if value.name == name)
        array = numpy_helper.to_array(weight) * np.float32(factor)
        weight.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))

    return change


def take_the_smallest(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "TopK")
    next(a for a in node.attribute if a.name == "largest").i = 0


def swap_predictors(model: onnx.ModelProto) -> None:
    """Stage 2 ranks by stage 1's last layer and the other way round."""
    names = [f"score_predictor.{stage}.score/constant" for stage in (0, 1)]
    first, second = (next(v for v in model.graph.initializer if v.name == n) for n in names)
    arrays = numpy_helper.to_array(first), numpy_helper.to_array(second)
    first.CopyFrom(numpy_helper.from_array(arrays[1].copy(), names[0]))
    second.CopyFrom(numpy_helper.from_array(arrays[0].copy(), names[1]))


def test_a_sound_file_passes(tiny_conversion: Conversion) -> None:
    result = verify_model(tiny_conversion.onnx)
    assert result.passed
    assert result.images == result.images_run == 8
    assert result.batch_sizes == (1, 3, 4)
    assert [stage.overlap for stage in result.stages] == [1.0, 1.0, 1.0]
    assert list(result.errors) == ["logits"]
    errors, agreement = result.errors["logits"], result.agreement["logits"]
    assert errors.max_abs < 1e-5 * max(1.0, errors.scale)
    assert errors.l2 < 1e-5
    assert agreement is not None
    assert agreement.cosine > 0.99999
    assert (agreement.top1, agreement.top5) == (1.0, 1.0)
    assert 0.0 <= agreement.kl <= agreement.max_kl < 1e-9  # type: ignore[operator]
    assert result.replayed_in == ""
    assert result.tolerances == choose_tolerances("fp32")


def test_pytorch_asked_afresh_agrees(tiny_conversion: Conversion, tiny_checkpoint: Path) -> None:
    assert verify_model(tiny_conversion.onnx, checkpoint=tiny_checkpoint).passed


def test_another_checkpoint_is_refused(
    tiny_conversion: Conversion, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(tiny_checkpoint.read_bytes() + b" ")
    with pytest.raises(ModelFileError, match="was not made from"):
        verify_model(tiny_conversion.onnx, checkpoint=other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scale("head.weight", 1.02), "logits differs by"),
        (scale("blocks.2.attn.q/constant", 1.3), "logits differs by"),
        (scale("score_predictor.1.score/constant", -1.0), "stage 2 swapped"),
        (scale("head.bias", float("nan")), "logits: 190 of 190 values are no finite numbers"),
        (scale("head.bias", float("nan")), "constant head.bias holds NaN"),
        (scale("score_predictor.2.narrow/constant", 1.02), "stage 3 ranks tokens the other way"),
        (take_the_smallest, "stage 1 swapped"),
        (swap_predictors, "stage 1 swapped"),
    ],
    ids=["head", "query", "score", "nan", "nan constant", "ranking", "smallest", "swapped"],
)
def test_damage_is_caught(
    tiny_conversion: Conversion,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    result = verify_model(damaged(tiny_conversion, tmp_path, change))
    assert not result.passed
    assert message in "; ".join(result.failures)
    with pytest.raises(VerificationError, match=r"failed verification"):
        result.require_passed()


def spoilt(values: np.ndarray, wrong: float, where: int = 3) -> np.ndarray:
    """With one number of these that can be told to be wrong."""
    changed = values.copy()
    ranked = np.flatnonzero(np.isfinite(changed[where]))
    changed[where, ranked[1]] = wrong
    return changed


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_bundle_with_one_number_that_is_none_fails_and_names_it(
    tiny_conversion: Conversion, bundle: ReferenceBundle, tmp_path: Path, wrong: float
) -> None:
    """It used to make the tolerance infinite."""
    path = tmp_path / "spoilt.npz"
    dataclasses.replace(bundle, outputs={"logits": spoilt(bundle.outputs["logits"], wrong)}).save(
        path
    )
    result = verify_model(tiny_conversion.onnx, reference=path)
    (failure,) = result.failures
    assert re.fullmatch(r"PyTorch's logits: \d of \d+ values are no finite numbers", failure), (
        failure
    )
    assert np.isfinite(result.errors["logits"].held_to(result.tolerances)[1])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_fail_by_stage(
    tiny_conversion: Conversion, bundle: ReferenceBundle, tmp_path: Path, wrong: float
) -> None:
    scores = list(bundle.scores)
    at = int(bundle.kept[1][3, 0])
    scores[1] = scores[1].copy()
    scores[1][3, at] = wrong
    path = tmp_path / "spoilt.npz"
    dataclasses.replace(bundle, scores=tuple(scores)).save(path)
    failures = verify_model(tiny_conversion.onnx, reference=path).failures
    assert len(failures) == 1
    assert failures[0].startswith("stage 2, PyTorch's scores: ")


@pytest.mark.parametrize("change", ["unranked", "all unranked", "ranked", "kept"])
def test_a_bundle_that_contradicts_itself_is_incomplete(
    tiny_conversion: Conversion, bundle: ReferenceBundle, tmp_path: Path, change: str
) -> None:
    """Scores are of what the stage before left, and what is kept is the best of them."""
    scores, kept = list(bundle.scores), list(bundle.kept)
    scores[1], kept[2] = scores[1].copy(), kept[2].copy()
    left_out = np.setdiff1d(np.arange(49), kept[0][0])
    if change == "unranked":
        scores[1][0, kept[1][0, 0]] = -np.inf
    elif change == "all unranked":
        scores[1][:] = -np.inf
    elif change == "ranked":
        scores[1][0, left_out[0]] = -9.0
    else:
        worse = np.setdiff1d(kept[1][0], kept[2][0])[:1]
        kept[2][0] = np.sort(np.concatenate([kept[2][0, 1:], worse]))
    path = tmp_path / "odd.npz"
    dataclasses.replace(bundle, scores=tuple(scores), kept=tuple(kept)).save(path)
    with pytest.raises(ModelFileError, match="is not a complete reference bundle"):
        verify_model(tiny_conversion.onnx, reference=path)


def random_scores(model: onnx.ModelProto) -> None:
    """Noise on what the second stage ranks by, anew in every run."""
    top_k = [node for node in model.graph.node if node.op_type == "TopK"][1]
    ranked = top_k.input[0]
    noise = onnx.helper.make_node("RandomNormalLike", [ranked], ["noise"], scale=0.5)
    noisy = onnx.helper.make_node("Add", [ranked, "noise"], ["noisy"])
    place = list(model.graph.node).index(top_k)
    top_k.input[0] = "noisy"
    model.graph.node.insert(place, noisy)
    model.graph.node.insert(place, noise)


def random_logits(model: onnx.ModelProto) -> None:
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "sound"
    noise = onnx.helper.make_node("RandomNormalLike", ["sound"], ["noise"], scale=0.5)
    model.graph.node.append(noise)
    model.graph.node.append(onnx.helper.make_node("Add", ["sound", "noise"], ["logits"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (random_scores, "stage 2 chooses otherwise when the same images run again"),
        (random_logits, r"logits differs by [0-9.]+ when the same images run again"),
    ],
)
def test_what_is_random_from_run_to_run_fails(
    tiny_conversion: Conversion,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    """Within the widest limits, where a single run says nothing against it."""
    path = damaged(tiny_conversion, tmp_path, change)
    result = verify_model(path, limits=Limits(tolerance=1e3, tie_margin=1e3))
    assert re.fullmatch(message, result.failures[0]), result.failures


@pytest.fixture(scope="module")
def dead_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second stage's predictor has weights of zero at its end."""
    model = random_model()
    with torch.no_grad():
        model.get_parameter("score_predictor.1.out_conv.4.weight").zero_()
    return save_checkpoint(tmp_path_factory.mktemp("dead") / "tiny.pth", model)


def test_a_dead_predictor_is_not_converted(dead_checkpoint: Path, tmp_path: Path) -> None:
    """Every runtime would keep tokens of its own."""
    output = tmp_path / "tiny.onnx"
    with pytest.raises(
        VerificationError,
        match="failed verification: stage 2 gives every token the same score in PyTorch",
    ):
        convert(Recipe(dead_checkpoint, ratio=0.7, output=output))
    assert not output.exists()


def test_a_candidate_whose_predictor_is_dead_is_told(
    tiny_conversion: Conversion, tmp_path: Path
) -> None:
    path = damaged(tiny_conversion, tmp_path, scale("score_predictor.1.score/constant", 0.0))
    failures = verify_model(path, limits=Limits(tie_margin=1e3)).failures
    assert failures[0] == "stage 2 gives every token the same score, unlike PyTorch's"


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(tiny_conversion: Conversion, tolerance: float) -> None:
    with pytest.raises(InputError, match="is not valid: give a number above 0"):
        verify_model(tiny_conversion.onnx, limits=Limits(tolerance=tolerance))


def test_a_bundle_of_another_model_is_refused(
    tiny_conversion: Conversion, bundle: ReferenceBundle, tmp_path: Path
) -> None:
    path = tmp_path / "other.npz"
    dataclasses.replace(bundle, made_for={**bundle.made_for, "ratios": [0.5, 0.4, 0.3]}).save(path)
    with pytest.raises(ModelFileError, match=r"was recorded for ratios \[0.5, 0.4, 0.3\]"):
        verify_model(tiny_conversion.onnx, reference=path)


@pytest.mark.parametrize("cut", [0, 10, 1000, -50])
def test_a_damaged_bundle_is_refused(tiny_conversion: Conversion, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.npz"
    path.write_bytes(Path(tiny_conversion.reference).read_bytes()[:cut])
    with pytest.raises(ModelFileError, match="is not a complete reference bundle"):
        verify_model(tiny_conversion.onnx, reference=path)


def test_bundle_survives_the_file(bundle: ReferenceBundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "again.npz")
    again = ReferenceBundle.load(tmp_path / "again.npz")
    assert again.made_for == bundle.made_for
    assert np.array_equal(again.images, bundle.images)
    assert list(again.outputs) == ["logits"]
    assert np.array_equal(again.outputs["logits"], bundle.outputs["logits"])
    assert all(np.array_equal(a, b) for a, b in zip(again.scores, bundle.scores, strict=True))
    kept_before = np.isfinite(again.scores[1]).sum(axis=1)
    assert kept_before.tolist() == [34] * 8


def test_outputs_are_stored_under_their_names(bundle: ReferenceBundle, tmp_path: Path) -> None:
    maps = {"feat_0": np.ones((8, 4, 2, 2), np.float32), "feat_1": np.zeros((8, 8), np.float32)}
    path = tmp_path / "maps.npz"
    dataclasses.replace(bundle, outputs=maps).save(path)
    with np.load(path) as arrays:
        assert {"output:feat_0", "output:feat_1"} <= set(arrays)
    again = ReferenceBundle.load(path)
    assert list(again.outputs) == list(maps)
    assert all(np.array_equal(again.outputs[name], maps[name]) for name in maps)


def test_a_bundle_of_another_format_is_refused(
    tiny_conversion: Conversion, bundle: ReferenceBundle, tmp_path: Path
) -> None:
    path = tmp_path / "old.npz"
    dataclasses.replace(bundle, made_for={**bundle.made_for, "format": 1}).save(path)
    with pytest.raises(ModelFileError, match="is not a complete reference bundle"):
        verify_model(tiny_conversion.onnx, reference=path)


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"feat_0": np.zeros((8, 10), np.float32)},
        {"logits": np.zeros((8, 9), np.float32)},
        {"logits": np.zeros((8, 10), np.float32), "more": np.zeros((8, 1), np.float32)},
    ],
    ids=["none", "another", "shape", "more"],
)
def test_a_bundle_with_other_outputs_than_the_model_is_refused(
    tiny_conversion: Conversion,
    bundle: ReferenceBundle,
    tmp_path: Path,
    outputs: dict[str, np.ndarray],
) -> None:
    path = tmp_path / "other.npz"
    dataclasses.replace(bundle, outputs=outputs).save(path)
    with pytest.raises(ModelFileError, match="is not a complete reference bundle"):
        verify_model(tiny_conversion.onnx, reference=path)


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [("8", (8,)), ("1:8:64", (1, 8, 9)), ("1:8:8", (1, 8)), ("2:2:5", (2, 3))],
)
def test_batch_sizes_worth_running(batch: str, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(Batch.parse(batch)) == sizes
