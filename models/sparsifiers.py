"""Which tokens go on: the paper's predictor, and three ways to act on its scores.

A sparsifier is a submodule that maps `Tokens` to `Tokens`. A model is defined once, in its
training form, and converting it swaps its sparsifiers (section 3.2 of arXiv 2106.02034 and of
its extension arXiv 2207.01580):

    GumbelMask   training      a random, differentiable mask; every token is still computed
    TopKMask     the oracle    the k best as a mask; every token is still computed
    TopKGather   inference     the k best rows are moved to the front, the rest are gone

Leading tokens, such as the class token, are the first rows of ``x`` throughout and are never
dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.models.layers import linear_from
from dynexport.models.operators import in_dense_twin, take_rows

CLASS_TOKEN_SCORE = 1e30
"""Above any score: plugins written for release 0.1.0 pin the class token by it, newer ones by
`pin_class_token`."""


Path = Callable[[Tensor], Tensor]
"""Position-wise: rows (B, K, C) -> rows (B, K, C)."""

Route = Callable[[Tensor, Path, Path], Tensor]
"""Rows x (B, N, C), a slow and a fast path -> (B, N, C); see `dynexport.models.dualpath`."""


class Tokens(NamedTuple):
    """Tokens between two blocks, and the history of what was decided about them.

    x       (B, L + N, C)  leading tokens first; (B, N, C) where there are none (dual path)
    mask    (B, L + N)     1 where a token is alive; None before the first stage, in the
            inference form, and where nothing is dropped (dual path)
    route   how a block sends each row down one of its two paths (dual path); None before the
            first stage
    scores  per stage, (B, N) or (B, N_left): the predictor's preference for keeping each
            token that stage ranked
    masks   per stage, (B, N): the mask over the patch grid (training form)
    kept    per stage, (B, K) int64: grid positions kept (oracle and inference form)
    """

    x: Tensor
    mask: Tensor | None = None
    route: Route | None = None
    scores: tuple[Tensor, ...] = ()
    masks: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()


class Predictor(nn.Module):
    """Scores patch tokens by themselves and by the mean of those alive (section 3.2, eq. 2-6).

    The first half of the channels stays local; the other half is averaged over the tokens that
    are alive and appended to every token.
    """

    def __init__(
        self, dim: int, linear: Callable[[int, int], nn.Module] = nn.Linear, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim, eps=eps), linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            linear(dim, dim // 2),
            nn.GELU(),
            linear(dim // 2, dim // 4),
            nn.GELU(),
            linear(dim // 4, 2),
            nn.LogSoftmax(dim=-1),
        )

    def log_probabilities(self, patches: Tensor, alive: Tensor) -> Tensor:
        """patches (B, N, C), alive (B, N) in {0, 1} -> log P(keep), log P(drop): (B, N, 2)."""
        hidden = self.in_conv(patches)
        half = hidden.shape[-1] // 2
        weights = alive.unsqueeze(-1)
        mean = (hidden[..., half:] * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        both = torch.cat([hidden[..., :half], mean.expand(-1, hidden.shape[1], -1)], dim=-1)
        return self.out_conv(both)


def sample_mask(log_p: Tensor, training: bool) -> Tensor:
    """A mask (B, N) of log P(keep), log P(drop), (B, N, 2).

    In training a straight-through Gumbel-softmax sample, otherwise its mode, so that nothing is
    random.
    """
    if training:
        return F.gumbel_softmax(log_p, hard=True)[..., 0]
    return (log_p[..., 0] > log_p[..., 1]).to(log_p.dtype)


def _alive(tokens: Tokens, leading: int) -> Tensor:
    """The mask over the patch grid, (B, N): what is alive before this stage."""
    if tokens.mask is None:
        return torch.ones(tokens.x.shape[0], tokens.x.shape[1] - leading, device=tokens.x.device)
    return tokens.mask[:, leading:]


def _masked(tokens: Tokens, keep: Tensor, scores: Tensor) -> Tokens:
    """Tokens after a stage that keeps ``keep`` (B, N); leading ones stay alive."""
    leading = tokens.x.shape[1] - keep.shape[1]
    return tokens._replace(
        mask=F.pad(keep, (leading, 0), value=1.0),
        scores=(*tokens.scores, scores),
        masks=(*tokens.masks, keep),
    )


class GumbelMask(Predictor):
    """Training: a straight-through Gumbel-softmax sample, multiplied into the mask so far.

    In eval mode the sample is replaced by its mode (keep where keeping is likelier), so nothing
    is random there; inference at a fixed ratio is what `TopKGather` is for. ``leading`` tokens
    stand before the patches.
    """

    def __init__(self, dim: int, leading: int = 1) -> None:
        super().__init__(dim)
        self.leading = leading

    def forward(self, tokens: Tokens) -> Tokens:
        alive = _alive(tokens, self.leading)
        log_p = self.log_probabilities(tokens.x[:, self.leading :], alive)
        return _masked(tokens, sample_mask(log_p, self.training) * alive, log_p[..., 0])

    def top_k(self, keep_count: int, left: int) -> TopKMask:
        """The deterministic form that keeps ``keep_count`` of the ``left`` tokens alive."""
        return TopKMask(self, keep_count, left)


class TopKMask(nn.Module):
    """The oracle: the k best-scored tokens alive stay alive; all of them are still computed.

    With ``replay`` (B, K), grid positions decided elsewhere take the place of its own choice,
    so that two forms can be compared for numeric error alone.
    """

    def __init__(self, predictor: GumbelMask, keep_count: int, left: int) -> None:
        super().__init__()
        if not 1 <= keep_count <= left:
            raise ModelError(
                f"a pruning stage cannot keep {keep_count} of {left} tokens: "
                "keep at least one and at most all that are left"
            )
        self.predictor = predictor
        self.keep_count = keep_count
        self.left = left
        self.replay: Tensor | None = None

    def forward(self, tokens: Tokens) -> Tokens:
        leading = self.predictor.leading
        alive = _alive(tokens, leading)
        scores = self.predictor.log_probabilities(tokens.x[:, leading:], alive)[..., 0]
        scores = scores.masked_fill(alive == 0, -torch.inf)
        kept = self.replay
        if kept is None:
            kept = scores.topk(self.keep_count, dim=1).indices
        keep = torch.zeros_like(alive).scatter(1, kept, 1.0)
        return _masked(tokens, keep, scores)._replace(kept=(*tokens.kept, kept))

    def inference_form(self) -> TopKGather:
        return TopKGather(self.predictor, self.keep_count, self.left)


class FoldedPredictor(nn.Module):
    """Inference: the same scores up to a constant, x (B, T, C) -> (B, T, 1), folded exactly.

    - [local | mean] @ W = local @ W_local + mean @ W_mean, so nothing is expanded or
      concatenated. W_local keeps a zero half in place of a slice of its input: one node fewer a
      stage, for about 0.3 % of a DeiT-S's time.
    - Ranking by log P(keep) is ranking by the difference of the two logits, so the last Linear
      has one output, and neither a bias nor a LogSoftmax.

    ``weights`` (T,) are those of the mean: 1/N for a patch, 0 for a leading token.
    """

    average: Tensor

    def __init__(self, predictor: Predictor, weights: Tensor) -> None:
        super().__init__()
        norm, first, _ = predictor.in_conv
        second, third, last = (layer for layer in predictor.out_conv if hasattr(layer, "weight"))
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        assert isinstance(last, nn.Linear)
        half = first.out_features // 2
        self.norm = norm
        self.hidden = first
        self.local = linear_from(_half(second.weight, slice(half, None)))
        self.mean = linear_from(_half(second.weight, slice(0, half)), second.bias)
        self.narrow = third
        self.score = linear_from((last.weight[0] - last.weight[1]).unsqueeze(0))
        self.register_buffer("average", weights.unsqueeze(0))

    def scores(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> preference for keeping each token, (B, T, 1)."""
        hidden = F.gelu(self.hidden(self.norm(x)))
        mean = self.mean(torch.matmul(self.average, hidden))
        hidden = F.gelu(self.local(hidden) + mean)
        scores: Tensor = self.score(F.gelu(self.narrow(hidden)))
        return scores


class TopKGather(FoldedPredictor):
    """Inference: score, take the k best rows and the leading tokens, forget the rest.

    Leading tokens are ranked along with the patches, their scores pinned above all, and left out of
    the mean by a weight of zero. So no row is sliced off and put back, and as a top-k returns the
    best first, leading tokens stay the first rows. With ``replay`` (B, K), grid positions decided
    elsewhere take the place of its own choice.
    """

    replay: Tensor | None = None

    def __init__(self, predictor: GumbelMask, keep_count: int, left: int) -> None:
        super().__init__(predictor, F.pad(torch.full((left,), 1.0 / left), (predictor.leading, 0)))
        self.keep_count, self.leading = keep_count, predictor.leading

    def forward(self, tokens: Tokens) -> Tokens:
        lead = self.leading
        scores = pin_class_token(self.scores(tokens.x), lead)
        if self.replay is None:
            rows = scores.topk(lead + self.keep_count, dim=1).indices
        else:
            rows = replayed_rows(self.replay, tokens.kept[-1] if tokens.kept else None, lead)
        chosen = rows[:, lead:, 0] - lead
        if tokens.kept:
            chosen = tokens.kept[-1].gather(1, chosen)
        return tokens._replace(
            x=in_dense_twin(take_rows(tokens.x, rows), tokens.x),
            scores=(*tokens.scores, scores[:, lead:, 0]),
            kept=(*tokens.kept, chosen),
        )


def pin_class_token(scores: Tensor, leading: int = 1) -> Tensor:
    """Scores (B, L + N, 1) with those of the ``leading`` tokens just above all others, in order.

    By no constant, however large: whoever reads ranges off images, to quantise, would find it in
    them, and no step would be left to tell the others apart.
    """
    if leading == 0:
        return scores
    rows = torch.arange(scores.shape[1], device=scores.device).unsqueeze(1)
    above = 1.0 if leading == 1 else (leading - rows).to(scores.dtype)
    return torch.where(rows < leading, scores.amax(dim=1, keepdim=True) + above, scores)


def replayed_rows(replay: Tensor, left: Tensor | None, leading: int = 1) -> Tensor:
    """Rows of the ``leading`` tokens and of positions ``replay`` (B, K): int64 (B, L + K, 1).

    left (B, N): the position of each patch row, all of ``replay`` among them; None: the grid's.
    """
    if left is not None:
        replay = (left.unsqueeze(1) == replay.unsqueeze(2)).int().argmax(dim=2)
    first = torch.arange(leading, device=replay.device).expand(len(replay), -1)
    return torch.cat([first, replay + leading], dim=1).unsqueeze(-1)


def through_blocks(
    tokens: Tokens, blocks: nn.ModuleList, sparsifiers: nn.ModuleList, prune_at: Sequence[int]
) -> Tokens:
    """Every block in turn, each sparsifier right before the block it stands at."""
    stage_at = dict(zip(prune_at, sparsifiers, strict=True))
    for index, block in enumerate(blocks):
        if index in stage_at:
            tokens = stage_at[index](tokens)
        tokens = tokens._replace(x=block(tokens.x, tokens.mask))
    return tokens


class KeepAll(nn.Module):
    """The dense twin's sparsifier: drops nothing, computes nothing, whatever it is told."""

    def forward(self, tokens: Tokens, *context: Tensor) -> Tokens:
        return tokens


def _half(weight: Tensor, zeroed: slice) -> Tensor:
    """A copy of ``weight`` with the input channels ``zeroed`` cleared."""
    weight = weight.detach().clone()
    weight[:, zeroed] = 0.0
    return weight
