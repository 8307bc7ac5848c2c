"""Training form to inference form: equal to the dense masked form, nothing of training left."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynexport.errors import ModelError, ScheduleError, VerificationError
from dynexport.models import GumbelMask, KeepAll, TopKGather, TopKMask
from dynexport.models.deit import DeiTConfig, DynamicDeiT
from dynexport.models.dualpath import GumbelSplit, TopKRoute, TopKSplit, blend, split_rows
from dynexport.models.layers import DropPath, MaskedAttention
from dynexport.models.operators import in_dense_twin, take_rows
from dynexport.models.sparsifiers import Predictor, Tokens
from dynexport.pytorch.rewrite import oracle, prove, rewrite
from dynexport.schedule import KeepSchedule, power_schedule


def images_for(model: nn.Module, batch: int = 3, seed: int = 0) -> torch.Tensor:
    size = model.config.img_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, model.config.in_chans, *size, generator=generator)


def test_equal_to_the_masked_form(tiny_model: nn.Module) -> None:
    keep = power_schedule(0.7)
    proof = prove(tiny_model, rewrite(tiny_model, keep), keep, images_for(tiny_model))
    assert proof.outputs == {"logits": (10,)}
    assert proof.scale > 0.5
    assert proof.max_abs_error < 1e-5 * max(1.0, proof.scale)
    assert max(proof.selection_gap) < 1e-5


def test_the_oracle_left_alone_keeps_the_same_tokens(tiny_model: nn.Module) -> None:
    keep = power_schedule(0.7)
    images = images_for(tiny_model)
    with torch.inference_mode():
        ours = rewrite(tiny_model, keep)(images)
        theirs = oracle(tiny_model, keep)(images)
    assert [kept.shape[1] for kept in ours.tokens.kept] == [34, 24, 16]
    for a, b in zip(ours.tokens.kept, theirs.tokens.kept, strict=True):
        assert torch.equal(a.sort(dim=1).values, b.sort(dim=1).values)
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-5 * float(ours.logits.abs().max()))


def test_masks_drop_what_the_gather_drops(tiny_model: nn.Module) -> None:
    """The oracle's masks are the kept sets: what is compared is what is claimed."""
    output = oracle(tiny_model, power_schedule(0.7))(images_for(tiny_model))
    for mask, kept in zip(output.tokens.masks, output.tokens.kept, strict=True):
        assert torch.equal(mask.sum(dim=1), torch.full((3,), float(kept.shape[1])))
        assert (mask.gather(1, kept) == 1).all()


def test_nothing_of_training_is_left(tiny_model: nn.Module) -> None:
    lean = rewrite(tiny_model, power_schedule(0.7))
    left = (GumbelMask, TopKMask, Predictor, MaskedAttention, DropPath, nn.Dropout, nn.LogSoftmax)
    assert not [name for name, module in lean.named_modules() if isinstance(module, left)]
    assert sum(isinstance(module, TopKGather) for module in lean.modules()) == 3
    assert not lean.training
    assert not any(parameter.requires_grad for parameter in lean.parameters())
    program = torch.export.export(lean, (images_for(tiny_model),), strict=False)
    operators = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    random = {op for op in operators if any(w in op for w in ("rand", "bernoulli", "dropout"))}
    assert random == set()


def test_the_model_given_is_left_as_it_was(tiny_model: nn.Module) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    lean = rewrite(tiny_model, power_schedule(0.5))
    with torch.no_grad():
        for parameter in lean.parameters():
            parameter.zero_()
    after = tiny_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(isinstance(stage, GumbelMask) for stage in tiny_model.score_predictor)


def test_dense_twin_drops_nothing(tiny_model: nn.Module) -> None:
    lean = rewrite(tiny_model, None)
    assert sum(isinstance(module, KeepAll) for module in lean.modules()) == 3
    proof = prove(tiny_model, lean, None, images_for(tiny_model))
    assert proof.max_abs_error < 1e-5 * max(1.0, proof.scale)
    assert proof.selection_gap == ()


def test_ratio_one_equals_the_dense_twin(tiny_model: nn.Module) -> None:
    images = images_for(tiny_model)
    everything = rewrite(tiny_model, KeepSchedule((1.0, 1.0, 1.0)))(images)
    assert torch.allclose(everything.logits, rewrite(tiny_model, None)(images).logits, atol=1e-4)


def test_one_token_left(tiny_model: nn.Module) -> None:
    keep = KeepSchedule((0.5, 0.1, 0.021))
    lean = rewrite(tiny_model, keep)
    assert [kept.shape[1] for kept in lean(images_for(tiny_model)).tokens.kept] == [24, 4, 1]
    prove(tiny_model, lean, keep, images_for(tiny_model))


def test_images_in_a_batch_do_not_mix(tiny_model: nn.Module) -> None:
    lean = rewrite(tiny_model, power_schedule(0.7))
    images = images_for(tiny_model, 4)
    together = lean(images).logits
    alone = torch.cat([lean(image.unsqueeze(0)).logits for image in images])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("damage", ["score", "average", "q", "order"])
def test_a_wrong_fold_is_caught(tiny_model: nn.Module, damage: str) -> None:
    keep = power_schedule(0.7)
    lean = rewrite(tiny_model, keep)
    stage = lean.score_predictor[1]
    with torch.no_grad():
        if damage == "score":
            stage.score.weight.neg_()
        elif damage == "average":
            stage.average.mul_(0.5)
        elif damage == "q":
            lean.blocks[2].attn.q.weight.mul_(1.05)
        else:
            sound = stage.scores
            stage.scores = lambda x: sound(x).roll(1, dims=1)  # each token has its neighbour's
    with pytest.raises(VerificationError, match=r"rewritten model"):
        prove(tiny_model, lean, keep, images_for(tiny_model))


def test_nan_does_not_pass(tiny_model: nn.Module) -> None:
    keep = power_schedule(0.7)
    lean = rewrite(tiny_model, keep)
    with torch.no_grad():
        lean.head.bias[0] = torch.nan
    with pytest.raises(
        VerificationError,
        match="logits of the rewritten model: 3 of 30 values are no finite numbers: nothing was",
    ):
        prove(tiny_model, lean, keep, images_for(tiny_model))


def test_wrong_number_of_ratios(tiny_model: nn.Module) -> None:
    with pytest.raises(ScheduleError, match=r"2 keep ratios \(0.9, 0.8\) for a model with 3"):
        rewrite(tiny_model, KeepSchedule((0.9, 0.8)))


def test_a_stage_cannot_keep_more_than_is_left() -> None:
    with pytest.raises(ModelError, match="cannot keep 5 of 4 tokens"):
        GumbelMask(8).top_k(5, 4)


def test_tied_scores_keep_the_asked_number(tiny_model: nn.Module) -> None:
    """All scores equal: which tokens stay is free, how many is not, and none comes twice."""
    tied = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for stage in tied.score_predictor:
            stage.out_conv[4].weight.zero_()
    keep = power_schedule(0.7)
    lean = rewrite(tied, keep)
    output = lean(images_for(tied))
    for kept, count in zip(output.tokens.kept, (34, 24, 16), strict=True):
        assert [row.unique().numel() for row in kept] == [count] * 3
    prove(tied, lean, keep, images_for(tied))


def test_take_rows_moves_whole_rows() -> None:
    x = torch.arange(24.0).reshape(2, 4, 3)
    rows = torch.tensor([[[3], [0]], [[1], [1]]])
    expected = torch.stack([x[0][[3, 0]], x[1][[1, 1]]])
    assert torch.equal(take_rows(x, rows), expected)


def test_a_mark_changes_nothing_and_outlives_an_export() -> None:
    class Marked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return in_dense_twin(2 * x, x) + 1

    x = torch.randn(2, 3)
    assert torch.equal(Marked()(x), 2 * x + 1)
    program = torch.export.export(Marked(), (x,), strict=False)
    marks = [
        n for n in program.graph.nodes if n.target is torch.ops.dynexport.in_dense_twin.default
    ]
    assert len(marks) == 1
    assert torch.equal(program.module()(x), 2 * x + 1)


@pytest.mark.parametrize("keep_count", [1, 4, 8, 9])
def test_each_row_takes_its_own_path_and_comes_back_to_its_place(keep_count: int) -> None:
    torch.manual_seed(0)
    x, order = torch.randn(3, 9, 4), torch.rand(3, 9, 1).argsort(dim=1)
    slow, fast = nn.Linear(4, 4), nn.Linear(4, 4)
    mask = torch.zeros(3, 9).scatter(1, order[:, :keep_count, 0], 1.0)
    sent: list[int] = []

    def counted(path: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        sent.append(rows.shape[1])
        return path(rows)

    route = split_rows(order, keep_count)
    routed = route(x, lambda rows: counted(slow, rows), lambda rows: counted(fast, rows))
    assert torch.allclose(routed, blend(mask)(x, slow, fast), atol=1e-6)
    assert sent == [keep_count, 9 - keep_count][: 1 if keep_count == 9 else 2]


def test_dual_path_forms_split_alike() -> None:
    torch.manual_seed(0)
    training = GumbelSplit(8).eval()
    oracle_form = training.top_k(3, 10)
    lean = oracle_form.inference_form()
    assert isinstance(oracle_form, TopKSplit)
    assert isinstance(lean, TopKRoute)
    x = torch.randn(2, 10, 8)
    with torch.inference_mode():
        theirs, ours = oracle_form(Tokens(x)), lean(Tokens(x))
        assert torch.equal(ours.kept[0].sort().values, theirs.kept[0].sort().values)
        assert ours.kept[0].shape == (2, 3)
        assert ours.masks == ()
        assert theirs.masks[0].sum(dim=1).tolist() == [3.0, 3.0]
        for tokens in (ours, theirs):
            assert torch.equal(tokens.x, x)
            assert tokens.mask is None
            assert tokens.scores[0].shape == (2, 10)
            assert tokens.route is not None
        slow, fast = nn.Linear(8, 8), nn.Linear(8, 8)
        assert torch.allclose(ours.route(x, slow, fast), theirs.route(x, slow, fast), atol=1e-6)


def test_a_split_cannot_keep_more_than_the_whole_map() -> None:
    with pytest.raises(ModelError, match="cannot keep 5 of 4 positions"):
        GumbelSplit(8).top_k(5, 4)


def test_gather_keeps_the_class_token_in_front(tiny_model: nn.Module) -> None:
    stage = GumbelMask(8).top_k(3, 6).inference_form()
    x = torch.randn(2, 7, 8)
    assert torch.equal(stage(Tokens(x)).x[:, 0], x[:, 0])


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 3),
    head_dim=st.integers(2, 8),
    grid=st.integers(2, 5),
    depth=st.integers(1, 4),
    qkv_bias=st.booleans(),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_any_model_at_any_schedule_is_proved(
    heads: int, head_dim: int, grid: int, depth: int, qkv_bias: bool, seed: int, data: st.DataObject
) -> None:
    stages = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=1)))
    tokens = grid * grid
    counts = sorted(
        data.draw(st.lists(st.integers(1, tokens), min_size=len(stages), max_size=len(stages))),
        reverse=True,
    )
    keep = KeepSchedule(tuple(min(1.0, (count + 0.5) / tokens) for count in counts))
    config = DeiTConfig(
        heads * head_dim, heads, depth, tuple(stages), 2, 2 * grid, 3, qkv_bias=qkv_bias
    )
    torch.manual_seed(seed)
    model = DynamicDeiT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    proof = prove(model, rewrite(model, keep), keep, images_for(model, 2, seed))
    assert len(proof.selection_gap) == len(stages)
