"""One choice for both: PyTorch's replayed in the graph, the candidate's replayed in PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from made.tiny import Tiny, convert_tiny, evit_loaded, write
from torch import nn

from dynexport.artifact import Artifact, find_artifact
from dynexport.compare.tolerances import Limits
from dynexport.conversion import Conversion
from dynexport.engine import batch_ranges, build_plan
from dynexport.errors import InputError, ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.half import to_half
from dynexport.graph.replay import (
    NOWHERE,
    emit_choices,
    positions_of,
    replay_selection,
    rows_of,
    scores_on_grid,
)
from dynexport.graph.selection import add_kept_outputs
from dynexport.precision import choose_tolerances
from dynexport.pytorch.model import describe_original
from dynexport.pytorch.rewrite import oracle, rewrite, takes_replay, with_replay
from dynexport.runtimes import Runner, open_runner
from dynexport.runtimes.tensorrt import find_edition
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.schedule import KeepSchedule, Selection
from dynexport.verify import Verification, verify_artifact
from dynexport.verify.replay import FreeRun, free_failures

pytestmark = pytest.mark.slow

RATIOS = {
    "deit": (0.7, 0.5, 0.021),
    "convnext": (1.0, 0.5, 0.016),
    "evit": (0.9, 0.5, 0.3),
}
"""All tokens and one among them."""


@pytest.fixture(scope="module", params=list(RATIOS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp(request.param)
    return convert_tiny(folder, request.param, RATIOS[request.param], batch="1:3:5")


def random_choice(facts: Metadata, count: int) -> tuple[np.ndarray, ...]:
    """Sets that no score speaks for, in no order, appended tokens among them."""
    random, kept = np.random.default_rng(0), []
    left = [np.arange(facts.num_tokens)] * count
    for stage, keep in enumerate(facts.keep_counts):
        chosen = [random.permutation(positions)[:keep] for positions in left]
        kept.append(np.stack(chosen))
        if facts.selection.nested:
            behind = np.array(facts.selection.appended_by(stage, facts.num_tokens), dtype=np.int64)
            left = [np.concatenate([positions, behind]) for positions in chosen]
    return tuple(kept)


def test_a_choice_replayed_in_the_graph_is_the_one_replayed_in_pytorch(tiny: Tiny) -> None:
    """Outputs, and what each stage would have kept itself, at an odd batch size."""
    images = tiny.bundle.inputs(tiny.metadata.preprocessing)[:5]
    kept = random_choice(tiny.metadata, 5)
    original = describe_original(tiny.lean, tiny.metadata)
    assert original.replay is not None
    expected = original.replay(images, kept)
    graph = tiny.graph.clone()
    inputs = replay_selection(graph, tiny.metadata)
    names = emit_choices(graph, tiny.metadata)
    fed = rows_of(kept, [count for _, count in inputs], tiny.metadata)
    with open_runner("onnxruntime", to_bytes(graph)) as runner:
        found = runner.run(images, {name: r for (name, _), r in zip(inputs, fed, strict=True)})
    assert np.allclose(found["logits"], expected.outputs["logits"], atol=1e-5)
    assert not np.allclose(found["logits"], tiny.bundle.outputs["logits"][:5], atol=1e-2)
    rows: Any = [found[name] for name, _ in names]
    for stage, own in enumerate(positions_of(rows, tiny.metadata, kept)):
        theirs, count = expected.scores[stage], tiny.metadata.keep_counts[stage]
        best = np.argsort(-theirs, axis=1)[:, :count]
        assert np.array_equal(np.sort(own, axis=1), np.sort(best, axis=1))
        scores = scores_on_grid(found[names[stage][1]], kept, stage, tiny.metadata)
        assert np.array_equal(np.isfinite(scores), np.isfinite(theirs))


def test_a_choice_replayed_in_pytorch_is_the_oracles(tiny_model: nn.Module) -> None:
    keep = KeepSchedule((0.7, 0.5, 0.3))
    lean = rewrite(tiny_model, keep)  # type: ignore[arg-type]
    images = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    facts: Any = type("Facts", (), {})()
    facts.num_tokens, facts.keep_counts, facts.selection = 49, (34, 24, 14), lean.selection
    kept = tuple(torch.from_numpy(positions) for positions in random_choice(facts, 3))
    before = lean(images).logits
    told = with_replay(lean, kept)
    masked = oracle(tiny_model, keep, replay=kept)  # type: ignore[arg-type]
    assert torch.allclose(told(images).logits, masked(images).logits, atol=1e-5)
    assert all(map(torch.equal, told(images).tokens.kept, kept))
    assert torch.equal(lean(images).logits, before)  # the copy is told, not the model
    assert takes_replay(lean)


def test_rows_are_read_back_as_the_positions_they_were_made_of(tiny: Tiny) -> None:
    kept = random_choice(tiny.metadata, 4)
    widths = [values for _, values in replay_selection(tiny.graph.clone(), tiny.metadata)]
    rows = rows_of(kept, widths, tiny.metadata)
    assert [r.shape for r in rows] == [(4, width, 1) for width in widths]
    assert all((np.diff(np.sort(r[..., 0], axis=1), axis=1) > 0).all() for r in rows)
    for before in (None, kept):
        assert all(map(np.array_equal, positions_of(rows, tiny.metadata, before), kept))


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([[0, 6, 2], [0, 2]], [[5, 1], [1]]),
        ([[0, 6, 2], [0, 0]], [[5, 1], [NOWHERE]]),
        ([[0, 6, 2], [0, 3]], [[5, 1], [6]]),
        ([[0, 6, 2], [0, 4]], [[5, 1], [NOWHERE]]),
        ([[0, 6, 2], [0, -1]], [[5, 1], [NOWHERE]]),
        ([[6, 0, 2], [0, 1]], [[NOWHERE, NOWHERE], [NOWHERE]]),
        ([[0, 6], [0, 1]], [[NOWHERE, NOWHERE], [NOWHERE]]),
    ],
    ids=["sound", "class token", "appended", "behind all", "negative", "not in front", "too few"],
)
def test_rows_that_are_no_tokens_are_nowhere(
    tiny_conversion: Conversion, rows: list[list[int]], kept: list[list[int]]
) -> None:
    facts = dataclasses.replace(
        tiny_conversion.metadata,
        num_tokens=6,
        keep_counts=(2, 1),
        selection=Selection(nested=True, leading=1, appended=1),
    )
    arrays = [np.array(chosen)[None, :, None] for chosen in rows]
    assert [positions[0].tolist() for positions in positions_of(arrays, facts)] == kept


def test_a_choice_that_comes_of_no_top_k_is_refused(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    top_k = next(node for node in graph.graph if node.op_type == "TopK")
    scores = str(top_k.inputs[0].name)  # type: ignore[union-attr]
    facts = dataclasses.replace(tiny_conversion.metadata, selected=(scores,) * 3)
    with pytest.raises(ModelFileError, match="do not come from a top-k, so another tool changed"):
        emit_choices(graph, facts)


def candidate(tiny: Tiny, folder: Path, change: Callable[[ir.Model], ir.Model]) -> Artifact:
    return find_artifact(write(folder, change(tiny.graph.clone()), tiny.bundle))


def blur_scores(size: float) -> Callable[[ir.Model], ir.Model]:
    """Make the scores of every stage a little larger and smaller in turn, along the tokens."""

    def change(graph: ir.Model) -> ir.Model:
        facts = Metadata.from_properties(dict(graph.metadata_props), "the graph")
        values = {v.name: v for node in graph.graph for v in node.outputs}
        for stage, name in enumerate(facts.selected):
            maker = values[name].producer()
            assert maker is not None
            scores = maker.inputs[0]
            assert scores is not None
            assert scores.shape is not None
            count = int(scores.shape[1])  # type: ignore[arg-type]
            shift = 1.0 + size * (-1.0) ** np.arange(count, dtype=np.float32)
            constant = ir.tensor(shift[None, :, None].astype(np.float32), name=f"shift_{stage}")
            value = ir.Value(
                name=f"shift_{stage}",
                shape=ir.Shape((1, count, 1)),
                type=ir.TensorType(ir.DataType.FLOAT),
                const_value=constant,
            )
            graph.graph.register_initializer(value)
            moved = ir.node("Mul", [scores, value], name=f"moved_{stage}")
            result = moved.outputs[0]
            result.name, result.shape, result.type = moved.name, scores.shape, scores.type
            graph.graph.insert_before(maker, moved)
            maker.replace_input_with(0, result)
        return graph

    return change


def judged(tiny: Tiny, artifact: Artifact, in_pytorch: bool, **asked: float) -> Verification:
    original = describe_original(tiny.lean, tiny.metadata) if in_pytorch else None
    limits = choose_tolerances("fp32", Limits(**asked))
    return verify_artifact(artifact, tiny.bundle, "memory", limits, original=original)


@pytest.mark.parametrize("in_pytorch", [True, False])
def test_swapped_tokens_exclude_no_image_and_no_stage(
    tiny: Tiny, tmp_path: Path, in_pytorch: bool
) -> None:
    """Scores that are 3 % off swap tokens at every stage: numbers agree as tightly as ever."""
    artifact = candidate(tiny, tmp_path, blur_scores(0.03))
    result = judged(tiny, artifact, in_pytorch, tie_margin=0.1)
    assert result.passed, result.failures
    assert result.images < result.images_run == 8
    assert result.replayed_in == ("pytorch" if in_pytorch else "candidate")
    errors, agreement = result.errors["logits"], result.agreement["logits"]
    assert errors.max_abs < 1e-4 * max(1.0, errors.scale)
    assert agreement is not None
    assert agreement.max_kl is not None
    assert agreement.max_kl > 1e-6  # free-running they do differ
    assert sum(stage.ties for stage in result.stages) > 0
    assert any(stage.free_overlap < 1.0 for stage in result.stages)
    strict = judged(tiny, artifact, in_pytorch)
    assert not strict.passed
    assert any("that rounding does not explain" in failure for failure in strict.failures)


@pytest.mark.parametrize("in_pytorch", [True, False])
def test_a_wrong_number_shows_through_swapped_tokens(
    tiny: Tiny, tmp_path: Path, in_pytorch: bool
) -> None:
    def change(graph: ir.Model) -> ir.Model:
        graph = blur_scores(0.03)(graph)
        bias = next(
            v for n, v in graph.graph.initializers.items() if n in ("head.bias", "head_fc.bias")
        )
        assert bias.const_value is not None
        bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.01), name=bias.name)
        return graph

    result = judged(tiny, candidate(tiny, tmp_path, change), in_pytorch, tie_margin=0.1)
    assert result.failures[0].startswith("logits differs by ")
    assert result.errors["logits"].max_abs == pytest.approx(0.01, rel=0.3)


def test_a_later_stage_is_judged_behind_a_tie(tiny: Tiny, tmp_path: Path) -> None:
    """Stage 1 swaps ties in every image, stage 3 takes the worst: it used to go unseen."""

    def change(graph: ir.Model) -> ir.Model:
        graph = blur_scores(0.03)(graph)
        facts = tiny.metadata
        values = {v.name: v for node in graph.graph for v in node.outputs}
        maker = values[facts.selected[2]].producer()
        assert maker is not None
        maker.attributes["largest"] = ir.AttrInt64("largest", 0)
        return graph

    for in_pytorch in (True, False):
        result = judged(tiny, candidate(tiny, tmp_path, change), in_pytorch, tie_margin=0.1)
        assert any(failure.startswith("stage 3 ") for failure in result.failures)
        assert [stage.faults for stage in result.stages][:2] == [0, 0]


def test_an_output_that_tells_of_other_tokens_is_caught(tmp_path: Path) -> None:
    tiny = convert_tiny(tmp_path, "deit", (0.7, 0.5, 0.3), batch="2")

    def change(graph: ir.Model) -> ir.Model:
        add_kept_outputs(graph, tiny.metadata)
        return graph

    assert judged(tiny, candidate(tiny, tmp_path, change), False).passed

    def shift(graph: ir.Model) -> ir.Model:
        graph = change(graph)
        (node,) = (node for node in graph.graph if node.name == "kept_0/tokens")
        graph.graph.sort()
        node.op_type = "Add"
        return graph

    failures = judged(tiny, candidate(tiny, tmp_path, shift), False).failures
    assert failures[0] == "output kept_0 is not what stage 1 keeps"


def test_half_precision_replays_too(tiny: Tiny, tmp_path: Path) -> None:
    bundle, facts = tiny.bundle, tiny.metadata
    artifact = candidate(
        tiny, tmp_path, lambda graph: to_half(graph, "bf16", marks=facts.dense_twin)
    )
    assert artifact.label == "onnxruntime, half precision emulated"
    for original in (None, describe_original(tiny.lean, facts)):
        result = verify_artifact(artifact, bundle, "memory", original=original)
        assert result.precision == "bf16"
        assert all(stage.misranked == 0 for stage in result.stages)
        assert all(np.isfinite(stage.inversion) for stage in result.stages)
        assert result.errors["logits"].l2 < 0.15


def test_a_rebuilt_probe_is_asked_where_a_token_stands_at_the_cut(
    tiny: Tiny, tmp_path: Path
) -> None:
    """As of an engine, whose probe is another engine: what is near the cut is compared in the
    probe, the product only where nothing is."""
    artifact = candidate(tiny, tmp_path, lambda graph: graph)
    opened: list[ir.Model] = []

    class Rebuilt(Artifact):
        rebuilt = True  # type: ignore[assignment]

        def open_probe(self, graph: ir.Model) -> Runner:
            opened.append(graph)
            return artifact.open_probe(blur_scores(1e-6)(graph))

    fields = dataclasses.fields(Artifact)
    other = Rebuilt(**{field.name: getattr(artifact, field.name) for field in fields})
    result = judged(tiny, other, False, tie_margin=0.05)
    assert result.passed, result.failures
    assert result.images < 8
    assert len(opened) == 1  # kept sets are the same, so nothing is replayed


def test_a_family_that_takes_no_replay_is_asked_the_other_way(tmp_path: Path) -> None:
    tiny = convert_tiny(tmp_path, "evit", (0.7, 0.7, 0.7), batch="4")
    with evit_loaded():
        for stage in tiny.lean.get_submodule("fuse"):  # type: ignore[attr-defined]
            del stage.replay
        original = describe_original(tiny.lean, tiny.metadata)
    assert original.replay is None
    artifact = candidate(tiny, tmp_path, blur_scores(0.03))
    limits = choose_tolerances("fp32", Limits(tie_margin=0.1))
    result = verify_artifact(artifact, tiny.bundle, "memory", limits, original=original)
    assert result.passed, result.failures
    assert result.replayed_in == "candidate"


@pytest.mark.parametrize("batch", ["2", "1:3:5"])
def test_tensorrt_takes_a_replayed_choice(batch: str, tmp_path: Path) -> None:
    """Parsed and built for real; each profile covers the batch of every input."""
    tiny = convert_tiny(tmp_path, "deit", (0.7, 0.5, 0.3), batch=batch)
    graph = tiny.graph.clone()
    replay_selection(graph, tiny.metadata)
    emit_choices(graph, tiny.metadata)
    flavour = find_edition("tensorrt-rtx")
    ranges = batch_ranges(graph, "tiny", ())
    options = BuildOptions(compute_capabilities=("8.6",))
    assert build_plan(flavour, graph, ranges, options).content


def test_other_inputs_are_refused_as_before(tiny_conversion: Conversion) -> None:
    graph = read_model(tiny_conversion.onnx)
    replay_selection(graph, tiny_conversion.metadata)
    graph.graph.inputs[1].name = "other"
    with pytest.raises(InputError, match=r"engines are built of models with one input.*other"):
        batch_ranges(graph, "tiny", ())


def test_a_bundle_whose_stages_do_not_follow_is_incomplete(tiny_conversion: Conversion) -> None:
    path = Path(tiny_conversion.reference)
    bundle = ReferenceBundle.load(path)
    facts = tiny_conversion.metadata
    dropped = np.setdiff1d(np.arange(49), bundle.kept[0][0])[:1]
    second = bundle.kept[1].copy()
    second[0] = np.sort(np.concatenate([second[0, 1:], dropped]))
    damaged = dataclasses.replace(bundle, kept=(bundle.kept[0], second, bundle.kept[2]))
    bundle.require_made_for(facts, path, path)
    with pytest.raises(ModelFileError, match="is not a complete reference bundle"):
        damaged.require_made_for(facts, path, path)


def test_failures_name_the_stage_and_what_is_wrong() -> None:
    """Of a candidate by itself: an output that says something else, a choice that is no best."""
    best, worst = np.array([True, True]), np.array([False, True])
    assert free_failures(FreeRun({}, (), (best, best), (), ())) == ()
    assert free_failures(FreeRun({}, (), (worst, best), (), (2,))) == (
        "output kept_1 is not what stage 2 keeps",
        "stage 1 does not keep the best of its own scores (1 times)",
    )
