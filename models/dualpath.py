"""Two paths through a block: the best-scored positions take the slow one, the rest a fast one.

Section 3.4 of arXiv 2207.01580: hierarchical models need their feature map whole, so nothing is
dropped. Each stage of sparsification ranks the whole map; the k best positions go through the
MLP, the others through a LayerNorm and one Linear, and all stay in place.

    GumbelSplit   training      a random, differentiable mask; both paths computed everywhere
    TopKSplit     the oracle    the k best as a mask; both paths computed everywhere
    TopKRows      inference     the k best rows go through the slow path and overwrite the fast

The public training code carries one map a path, so a position that changes path between stages
sees a value that inference never sees. Here there is one map in every form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.models.operators import row_operator
from dynexport.models.sparsifiers import FoldedPredictor, Predictor, Tokens


def _number_rows(rows: Tensor) -> Tensor:
    items = torch.arange(len(rows), device=rows.device).view(-1, 1, 1).expand(rows.shape)
    return torch.cat([items, rows], dim=-1)


number_rows = row_operator(
    "number_rows(Tensor rows) -> Tensor",
    _number_rows,
    lambda rows: rows.new_empty(rows.shape[0], rows.shape[1], 2),
)
"""Rows of each item of a batch, (B, K, 1), as places in it, (B, K, 2): item and row."""

take_places = row_operator(
    "take_places(Tensor x, Tensor places) -> Tensor",
    lambda x, places: x[places[..., 0], places[..., 1]],
    lambda x, places: x.new_empty(x.shape[0], places.shape[1], x.shape[2]),
)
"""Whole rows of a batch: x (B, N, C), places (B, K, 2) -> (B, K, C)."""

put_places = row_operator(
    "put_places(Tensor x, Tensor places, Tensor rows) -> Tensor",
    lambda x, places, rows: x.index_put((places[..., 0], places[..., 1]), rows),
    lambda x, places, rows: torch.empty_like(x),
)
"""x (B, N, C) with the rows at ``places`` (B, K, 2) replaced by ``rows`` (B, K, C)."""

Path = Callable[[Tensor], Tensor]


def through_two_paths(x: Tensor, tokens: Tokens, slow: Path, fast: Path) -> Tensor:
    """Each position of x (B, N, C) through one of two position-wise paths -> (B, N, C).

    Before the first split all take the slow one. Under a mask both are computed and blended; in
    inference the slow one is computed for the chosen rows alone.
    """
    if tokens.places is not None:
        return put_places(fast(x), tokens.places, slow(take_places(x, tokens.places)))
    if tokens.mask is None:
        return slow(x)
    mask = tokens.mask.unsqueeze(-1)
    return mask * slow(x) + (1.0 - mask) * fast(x)


class GumbelSplit(Predictor):
    """Training: a straight-through Gumbel-softmax sample over the whole map.

    In eval mode the sample is replaced by its mode, so nothing is random there.
    """

    def forward(self, tokens: Tokens) -> Tokens:
        everywhere = torch.ones_like(tokens.x[..., 0])
        log_p = self.log_probabilities(tokens.x, everywhere)
        if self.training:
            keep = F.gumbel_softmax(log_p, hard=True)[..., 0]
        else:
            keep = (log_p[..., 0] > log_p[..., 1]).to(log_p.dtype)
        return _split(tokens, keep, log_p[..., 0])

    def top_k(self, keep_count: int, total: int) -> TopKSplit:
        """The deterministic form that sends ``keep_count`` of ``total`` positions the slow way."""
        return TopKSplit(self, keep_count, total)


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

    def inference_form(self) -> TopKRows:
        return TopKRows(self.predictor, self.keep_count, self.total)


class TopKRows(FoldedPredictor):
    """Inference: the places of the k best-scored rows, for `through_two_paths`."""

    def __init__(self, predictor: Predictor, keep_count: int, total: int) -> None:
        super().__init__(predictor, torch.full((total,), 1.0 / total))
        self.keep_count = keep_count

    def forward(self, tokens: Tokens) -> Tokens:
        scores = self.scores(tokens.x)
        rows = scores.topk(self.keep_count, dim=1).indices
        return tokens._replace(
            places=number_rows(rows),
            scores=(*tokens.scores, scores[..., 0]),
            kept=(*tokens.kept, rows[..., 0]),
        )


def _split(tokens: Tokens, keep: Tensor, scores: Tensor) -> Tokens:
    """Tokens after a stage that sends ``keep`` (B, N) the slow way."""
    return tokens._replace(mask=keep, scores=(*tokens.scores, scores), masks=(*tokens.masks, keep))
