"""Layers that several families share: the training form of each, and its inference form.

A module that changes between the two has a method ``inference_form()``; `dynexport.pytorch.rewrite`
swaps every module that has one for what it returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.models.activations import make_activation


def add_class_and_position(
    patches: Tensor, leading: Tensor, pos_embed: Tensor, unplaced: int = 0
) -> Tensor:
    """Leading tokens in front, position embeddings added: patches (B, N, C) -> (B, L + N, C).

    Rows of zeros are padded in front and the leading tokens (1, L, C), such as the class token,
    ride on the position embeddings (1, L + N, C), so the sum of the two is a constant and the batch
    size appears nowhere. The last ``unplaced`` of the leading tokens have no position embedding.
    """
    count = leading.shape[1]
    if unplaced:
        placed = count - unplaced
        first = F.pad(pos_embed[:, :placed], (0, 0, 0, unplaced))
        pos_embed = torch.cat([first, pos_embed[:, placed:]], dim=1)
    if count == 0:
        return patches + pos_embed
    offset = pos_embed + F.pad(leading, (0, 0, 0, pos_embed.shape[1] - count))
    return F.pad(patches, (0, 0, count, 0)) + offset


def resize_positions(
    state: Mapping[str, Tensor], config: Any, placed: int = 1
) -> dict[str, Tensor]:
    """A checkpoint's tensors with ``pos_embed`` interpolated to the configuration's grid.

    From the grid they were trained on: ``config.pos_grid``, or the square one.

    Bicubic over the grid, the ``placed`` leading tokens' embeddings as they are: what DeiT does for
    fine-tuning at another resolution (arXiv 2012.12877, section 3).
    """
    positions = state["pos_embed"]
    leading, grid = positions[:, :placed], positions[:, placed:]
    trained_on = config.pos_grid or (math.isqrt(grid.shape[1]),) * 2
    resized = torch.cat([leading, resize_grid(grid, trained_on, config.grid)], dim=1)
    return {**state, "pos_embed": resized}


def resize_grid(rows: Tensor, trained_on: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Embeddings (1, N, C) of a grid's positions, line after line, interpolated to another grid.

    They stay as they are where it is the same one, or they are none of ``trained_on``.
    """
    if trained_on == size or math.prod(trained_on) != rows.shape[1]:
        return rows
    grid = rows.float().transpose(1, 2).unflatten(2, trained_on)
    grid = F.interpolate(grid, size=size, mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2)


TRAINING_EPS = 1e-6
"""Keeps the masked softmax stable in training; in evaluation it is exact."""


def masked_softmax(scores: Tensor, mask: Tensor, eps: float) -> Tensor:
    """Softmax over the tokens alive, differentiable in the mask (arXiv 2106.02034, eq. 10-11).

    scores (B, heads, N, N), mask (B, N) of 1 (alive) and 0. Every token attends to itself even
    when dropped, so that no row is empty.
    """
    tokens = scores.shape[-1]
    visible = mask[:, None, None, :]
    visible = visible + (1.0 - visible) * torch.eye(tokens, dtype=mask.dtype, device=mask.device)
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp() * visible
    return (weights + eps / tokens) / (weights.sum(dim=-1, keepdim=True) + eps)


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, dim: int, hidden_dim: int, activation: str = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = make_activation(activation)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drops a residual branch per sample."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        return branch * branch.new_empty(shape).bernoulli_(keep) / keep

    def inference_form(self) -> nn.Module:
        return nn.Identity()


class MaskedAttention(nn.Module):
    """Multi-head self-attention that sees only the tokens alive."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, C), mask (B, N) or None -> (B, N, C)."""
        return self.attend(x, mask)[0]

    def attend(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, and the attention weights (B, heads, N, N)."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        eps = TRAINING_EPS if self.training else 0.0
        weights = scores.softmax(dim=-1) if mask is None else masked_softmax(scores, mask, eps)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim)), weights

    def inference_form(self) -> Attention:
        return Attention(self)


class Attention(nn.Module):
    """Attention without a mask, laid out for inference: MatMul, Softmax, MatMul.

    The projections stand apart, so that each is transposed once, straight to where its product
    needs it (k already as (B, heads, D, N)); the scale is folded into the query projection,
    which is where the runtimes' fused attention looks for it.

    Of the three biases only q's is left. k's shifts all scores of a query alike, which a softmax
    forgets; v's, as the weights of a query sum to 1, reaches the last projection whole, and its
    bias takes it in.
    """

    def __init__(self, trained: MaskedAttention) -> None:
        super().__init__()
        self.num_heads = trained.num_heads
        dim = trained.proj.out_features
        q, k, v = trained.qkv.weight.detach().split(dim)
        scale = (dim // self.num_heads) ** -0.5
        bias = trained.qkv.bias
        self.q = linear_from(q * scale, None if bias is None else bias[:dim] * scale)
        self.k, self.v = linear_from(k), linear_from(v)
        self.proj = trained.proj if bias is None else shifted_linear(trained.proj, bias[2 * dim :])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, C) -> (B, N, C). The inference form has no mask: every row is alive."""
        return self.attend(x, mask)[0]

    def attend(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, and the attention weights (B, heads, N, N)."""
        batch, tokens, dim = x.shape
        heads = (batch, tokens, self.num_heads, dim // self.num_heads)
        q = self.q(x).reshape(heads).permute(0, 2, 1, 3)
        k = self.k(x).reshape(heads).permute(0, 2, 3, 1)
        v = self.v(x).reshape(heads).permute(0, 2, 1, 3)
        weights = torch.matmul(q, k).softmax(dim=-1)
        mixed = torch.matmul(weights, v).permute(0, 2, 1, 3).reshape(batch, tokens, dim)
        return self.proj(mixed), weights


class LayerScale(nn.Module):
    """A learned factor a channel on a residual branch (arXiv 2103.17239, section 3.2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, branch: Tensor) -> Tensor:
        return self.gamma * branch


class Block(nn.Module):
    """Pre-norm transformer block: x + r * attention(norm(x)), then x + r * mlp(norm(x)).

    ``residual`` is r; ``eps`` the layer norms'; ``activation`` the MLP's; ``drop_path`` the rate of
    stochastic depth. With ``layer_scale`` r is learned besides, for each branch and channel.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        qkv_bias: bool,
        eps: float,
        residual: float = 1.0,
        drop_path: float = 0.0,
        activation: str = "gelu",
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = MaskedAttention(dim, num_heads, qkv_bias)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_dim, activation)
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()
        self.residual = residual

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self._scaled(self.drop_path(self.ls1(self.attn(self.norm1(x), mask))))
        return x + self._scaled(self.drop_path(self.ls2(self.mlp(self.norm2(x)))))

    def _scaled(self, branch: Tensor) -> Tensor:
        return branch if self.residual == 1.0 else branch * self.residual

    def inference_form(self) -> Block:
        """The same block, what scales a branch folded into its last Linear."""
        self.attn.proj = scaled_linear(self.attn.proj, self._factor(self.ls1))
        self.mlp.fc2 = scaled_linear(self.mlp.fc2, self._factor(self.ls2))
        self.ls1, self.ls2, self.residual = nn.Identity(), nn.Identity(), 1.0
        return self

    def _factor(self, scale: nn.Module) -> float | Tensor:
        """All that a branch is multiplied by."""
        return scale.gamma * self.residual if isinstance(scale, LayerScale) else self.residual


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of stochastic depth that rise evenly from 0 to ``last`` over the blocks."""
    return [last * block / max(1, depth - 1) for block in range(depth)]


EMBEDDINGS = ("cls_token", "dist_token", "reg_token", "pos_embed", "absolute_pos_embed")
"""Names of parameters that are added to tokens, or are tokens."""


def initialise(model: nn.Module) -> None:
    """Truncated normal weights and embeddings (std 0.02), zero biases: the backbones' own."""
    for name, parameter in model.named_parameters():
        if name in EMBEDDINGS:
            nn.init.trunc_normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def scaled_linear(linear: nn.Linear, factor: float | Tensor) -> nn.Linear:
    """A Linear whose outputs are ``factor`` times those of another; factor: number or (out,)."""
    if isinstance(factor, float) and factor == 1.0:
        return linear
    rows = factor.unsqueeze(1) if isinstance(factor, Tensor) else factor
    bias = None if linear.bias is None else linear.bias * factor
    return linear_from(linear.weight * rows, bias)


def shifted_linear(linear: nn.Linear, shift: Tensor) -> nn.Linear:
    """A Linear that gives of x what another gives of x + shift; shift: (in,)."""
    moved = linear.weight @ shift
    return linear_from(linear.weight, moved if linear.bias is None else linear.bias + moved)


def share_norm(*paths: Iterable[nn.Module]) -> tuple[nn.LayerNorm, list[nn.Linear]]:
    """Paths that each begin with a LayerNorm and a Linear, normalised once for all.

    Returns the normalisation without scale and offset, and a Linear a path that does both.
    """
    linears, eps = [], set()
    for norm, linear in paths:
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(linear, nn.Linear)
        offset = linear.weight @ norm.bias
        bias = offset if linear.bias is None else offset + linear.bias
        linears.append(linear_from(linear.weight * norm.weight, bias))
        eps.add(norm.eps)
    assert len(eps) == 1, "norms that differ cannot be shared"
    shape = norm.normalized_shape
    return nn.LayerNorm(shape, eps=eps.pop(), elementwise_affine=False), linears


def linear_from(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A Linear with these weights: weight (out, in), bias (out,) or none."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach())
    return linear
