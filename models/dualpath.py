"""Two paths through a block: the best-scored positions take the slow one, the rest a fast one.

Section 3.4 of arXiv 2207.01580: hierarchical models need their feature map whole, so nothing is
dropped. Each stage of sparsification ranks the whole map; the k best positions go through the
MLP, the others through a LayerNorm and one Linear, and all stay in place.

    GumbelSplit   training      a random, differentiable mask; both paths computed everywhere
    TopKSplit     the oracle    the k best as a mask; both paths computed everywhere
    TopKRoute     inference     rows are sorted by score, each path gets its own, all are put back

The public training code carries one map a path, so a position that changes path between stages
sees a value that inference never sees. Here there is one map in every form.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.models.layers import linear_from
from dynexport.models.operators import in_dense_twin, take_rows
from dynexport.models.sparsifiers import (
    FoldedPredictor,
    Path,
    Predictor,
    Route,
    Tokens,
    sample_mask,
)

SPARSE_STAGE = 2
"""The third stage, where most blocks are, is the one with two paths."""


class MapsConfig:
    """What the configurations of hierarchical models tell alike: the grid that is ranked."""

    def map_size(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage's map, positions."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the third stage's map, all of which every sparsifier ranks."""
        return self.map_size(SPARSE_STAGE)

    @property
    def num_tokens(self) -> int:
        """Positions of the third stage's map."""
        return math.prod(self.grid)


class FastMlp(nn.Module):
    """The fast path: LayerNorm and one Linear."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.LayerNorm(dim, eps=eps), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x)


def through_two_paths(x: Tensor, route: Route | None, slow: Path, fast: Path) -> Tensor:
    """Each row of x (B, N, C) through one of two paths -> (B, N, C).

    Before the first stage of sparsification all take the slow one.
    """
    return slow(x) if route is None else route(x, slow, fast)


def blend(mask: Tensor) -> Route:
    """Both paths for every row, blended by a mask (B, N): 1 where a row takes the slow one."""
    weights = mask.unsqueeze(-1)
    return lambda x, slow, fast: weights * slow(x) + (1.0 - weights) * fast(x)


def split_rows(order: Tensor, keep_count: int) -> Route:
    """Each path for its own rows: the first ``keep_count`` of ``order`` take the slow one.

    ``order`` int64 (B, N, 1) lists every row once. One gather a path and one to put all rows back
    by the inverse permutation, made once a stage. Measured against overwriting the output of a
    fast path computed everywhere and against two scatters: docs/performance.md.
    """
    total = order.shape[1]
    back = order.topk(total, dim=1, largest=False).indices
    first, rest = order.split([keep_count, total - keep_count], dim=1)

    def route(x: Tensor, slow: Path, fast: Path) -> Tensor:
        chosen = slow(in_dense_twin(take_rows(x, first), x))
        parts = [chosen, fast(take_rows(x, rest))] if keep_count < total else [chosen]
        return in_dense_twin(take_rows(torch.cat(parts, dim=1), back), chosen)

    return route


class GumbelSplit(Predictor):
    """Training: a straight-through Gumbel-softmax sample over the whole map.

    In eval mode the sample is replaced by its mode, so nothing is random there.
    """

    def forward(self, tokens: Tokens) -> Tokens:
        everywhere = torch.ones_like(tokens.x[..., 0])
        log_p = self.log_probabilities(tokens.x, everywhere)
        return _split(tokens, sample_mask(log_p, self.training), log_p[..., 0])

    def top_k(self, keep_count: int, total: int) -> TopKSplit:
        """The deterministic form that sends ``keep_count`` of ``total`` positions the slow way."""
        return TopKSplit(self, keep_count, total)


class PointwiseConv(nn.Linear):
    """A Linear over channels whose weight is stored as a 1 x 1 convolution's: (out, in, 1, 1)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)

    def inference_form(self) -> nn.Linear:
        return linear_from(self.weight.flatten(1), self.bias)


class TopKSplit(nn.Module):
    """The oracle: the k best-scored positions as a mask.

    With ``replay`` (B, K), positions decided elsewhere take the place of its own choice.
    """

    def __init__(self, predictor: Predictor, keep_count: int, total: int) -> None:
        super().__init__()
        if not 1 <= keep_count <= total:
            raise ModelError(
                f"a pruning stage cannot keep {keep_count} of {total} positions: "
                "keep at least one and at most all"
            )
        self.predictor = predictor
        self.keep_count = keep_count
        self.total = total
        self.replay: Tensor | None = None

    def forward(self, tokens: Tokens) -> Tokens:
        everywhere = torch.ones_like(tokens.x[..., 0])
        scores = self.predictor.log_probabilities(tokens.x, everywhere)[..., 0]
        kept = self.replay
        if kept is None:
            kept = scores.topk(self.keep_count, dim=1).indices
        keep = torch.zeros_like(scores).scatter(1, kept, 1.0)
        return _split(tokens, keep, scores)._replace(kept=(*tokens.kept, kept))

    def inference_form(self) -> TopKRoute:
        return TopKRoute(self.predictor, self.keep_count, self.total)


class TopKRoute(FoldedPredictor):
    """Inference: all rows by falling score, the k best of them for the slow path.

    With ``replay`` (B, K), positions decided elsewhere take the slow path.
    """

    replay: Tensor | None = None

    def __init__(self, predictor: Predictor, keep_count: int, total: int) -> None:
        super().__init__(predictor, torch.full((total,), 1.0 / total))
        self.keep_count = keep_count

    def forward(self, tokens: Tokens) -> Tokens:
        scores = self.scores(tokens.x)
        if self.replay is None:
            order = scores.topk(scores.shape[1], dim=1).indices
        else:
            order = replayed_order(self.replay, scores.shape[1])
        return tokens._replace(
            route=split_rows(order, self.keep_count),
            scores=(*tokens.scores, scores[..., 0]),
            kept=(*tokens.kept, order[:, : self.keep_count, 0]),
        )


def replayed_order(replay: Tensor, total: int) -> Tensor:
    """Positions ``replay`` (B, K), then all others of ``total``: int64 (B, total, 1)."""
    taken = torch.zeros(len(replay), total, device=replay.device).scatter(1, replay, 1.0)
    others = taken.topk(total - replay.shape[1], dim=1, largest=False).indices
    return torch.cat([replay, others], dim=1).unsqueeze(-1)


def _split(tokens: Tokens, keep: Tensor, scores: Tensor) -> Tokens:
    """Tokens after a stage that sends ``keep`` (B, N) the slow way."""
    return tokens._replace(
        route=blend(keep), scores=(*tokens.scores, scores), masks=(*tokens.masks, keep)
    )
