"""A Swin's block: attention inside windows of a map, shifted in every other block, then the MLP.

Swin Transformer, arXiv 2103.14030, section 3.2. Maps are rows, (B, N, C), line after line.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.models.dualpath import FastMlp, through_two_paths
from dynexport.models.layers import DropPath, Mlp, scaled_linear, share_norm
from dynexport.models.operators import lay_out_rows
from dynexport.models.sparsifiers import Route

APART = -100.0
"""Added to the attention of positions that the cyclic shift brought into one window."""


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for every relative position."""

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        size: tuple[int, int],
        window: int,
        shift: int,
        num_heads: int,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.window, self.shift, self.num_heads = size, window, shift, num_heads
        table = torch.zeros((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", relative_positions(window))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def bias(self) -> Tensor:
        """What each pair of positions in a window adds to attention: (heads, w*w, w*w)."""
        index = self.relative_position_index
        return self.relative_position_bias_table[index.flatten()].T.reshape(-1, *index.shape)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, C), mask (n, w*w, w*w) for n windows or None -> (B, N, C)."""
        order, back = (t.to(x.device) for t in window_order(self.size, self.window, self.shift))
        windows = into_windows(x, order).unflatten(1, (-1, self.window**2))
        shape = windows.shape
        head_dim = shape[-1] // self.num_heads
        qkv = self.qkv(windows).reshape(*shape[:3], 3, self.num_heads, head_dim)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        scores = (q * head_dim**-0.5) @ k.transpose(-2, -1) + self.bias()
        if mask is not None:
            scores = scores + mask.unsqueeze(1)
        mixed = self.proj((scores.softmax(dim=-1) @ v).transpose(2, 3).reshape(shape))
        return mixed.flatten(1, 2).index_select(1, back)


class LeanWindowAttention(nn.Module):
    """Inference: windows, shift and heads are one gather for each of q, k and v, and one back.

    A row of one head, D channels, is what is moved, so that nothing is transposed: on a CPU a
    gather runs on every core and a transpose on one. Bias and mask are one constant, added once;
    the scale rides on the query projection. Attention has four axes, as OpenVINO joins its
    operators only so: where a mask tells windows apart these stand with the heads, else with the
    images, so that what is added is never larger than need be.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    back: Tensor
    bias: Tensor

    def __init__(self, trained: WindowAttention, mask: Tensor | None) -> None:
        super().__init__()
        self.num_heads = trained.num_heads
        self.window_rows = trained.window**2
        self.proj = trained.proj
        dim = trained.proj.in_features
        scale = torch.ones(3 * dim)
        scale[:dim] = (dim // self.num_heads) ** -0.5
        self.qkv = scaled_linear(trained.qkv, scale)
        bias = trained.bias().detach()
        masked = bias if mask is None else (bias + mask.unsqueeze(1)).flatten(0, 1)
        self.register_buffer("bias", masked.unsqueeze(0))
        order, back = window_order(trained.size, trained.window, trained.shift)
        self.padded = len(order) > len(back)
        heads = torch.arange(self.num_heads)
        windows = order.reshape(-1, 1, self.window_rows) * 3  # rows of (N, 3, heads, D)
        for place, name in enumerate("qkv"):
            rows = (windows + place) * self.num_heads + heads.reshape(-1, 1)
            self.register_buffer(name, rows.flatten(0, 1))
        window, row = back // self.window_rows, back % self.window_rows
        first = (window * self.num_heads * self.window_rows + row).unsqueeze(1)
        self.register_buffer("back", (first + heads * self.window_rows).flatten())

    def forward(self, x: Tensor, mask: None = None) -> Tensor:
        """x (B, N, C) -> (B, N, C); the mask is part of the bias."""
        batch, tokens, dim = x.shape
        if self.padded:
            x = F.pad(x, (0, 0, 0, 1))
        head_dim = dim // self.num_heads
        rows = self.qkv(x).reshape(batch, -1, head_dim)
        shape = (-1, self.bias.shape[1], self.window_rows, head_dim)
        q, k, v = (lay_out_rows(rows, index) for index in (self.q, self.k, self.v))
        if self.bias.shape[1] != len(self.q):  # no mask: windows with the images
            q, k, v = (one.reshape(shape) for one in (q, k, v))
        scores = torch.matmul(q, k.transpose(-2, -1)) + self.bias
        mixed = torch.matmul(scores.softmax(dim=-1), v).reshape(-1, self.q.numel(), head_dim)
        return self.proj(mixed.index_select(1, self.back).reshape(batch, tokens, dim))


class SwinBlock(nn.Module):
    """Window attention, then the MLP or, where the third stage is split, one of two paths."""

    attn_mask: Tensor | None

    def __init__(
        self, config: Any, stage: int, shifted: bool, two_paths: bool, rate: float
    ) -> None:
        super().__init__()
        dim, size, window = config.dim(stage), config.map_size(stage), config.windows[stage]
        shift = window // 2 if shifted and config.shifts(stage) else 0
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn: nn.Module = WindowAttention(
            dim, size, window, shift, config.num_heads[stage], config.qkv_bias
        )
        self.drop_path = DropPath(rate)
        self.shared_norm: nn.Module = nn.Identity()
        self.norm2: nn.Module = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.activation)
        self.fastmlp = FastMlp(dim, config.norm_eps) if two_paths else None
        self.register_buffer("attn_mask", shift_mask(size, window, shift) if shift else None)

    def forward(self, x: Tensor, route: Route | None = None) -> Tensor:
        """A map as rows (B, N, C) -> (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), self.attn_mask))
        if self.fastmlp is None:
            return x + self.drop_path(self.slow(x))
        rows = through_two_paths(self.shared_norm(x), route, self.slow, self.fastmlp)
        return x + self.drop_path(rows)

    def slow(self, x: Tensor) -> Tensor:
        """Norm and MLP: (B, N, C) -> (B, N, C)."""
        return self.mlp(self.norm2(x))

    def inference_form(self) -> SwinBlock:
        """The same block with attention folded, and the two paths normalised once.

        What differs between their norms is folded into the Linear after each.
        """
        assert isinstance(self.attn, WindowAttention)
        self.attn = LeanWindowAttention(self.attn, self.attn_mask)
        self.attn_mask = None
        if self.fastmlp is not None:
            shared, linears = share_norm((self.norm2, self.mlp.fc1), self.fastmlp.fc1)
            self.shared_norm, self.norm2 = shared, nn.Identity()
            self.mlp.fc1, self.fastmlp.fc1 = linears[0], nn.Sequential(linears[1])
        return self


def relative_positions(window: int) -> Tensor:
    """For each pair of positions in a window, its row in the bias table: int64 (w*w, w*w)."""
    axis = torch.arange(window)
    rows = axis.repeat_interleave(window)
    columns = axis.repeat(window)
    down = rows[:, None] - rows[None, :] + window - 1
    across = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + across


def window_order(size: tuple[int, int], window: int, shift: int) -> tuple[Tensor, Tensor]:
    """How the N rows of a map of this height and width go into windows and back: (P,) and (N,).

    The first lists, window after window after a cyclic shift, the rows of the map padded to whole
    windows (P positions); row N stands for padding. The second finds each row again. Both int64.
    """
    height, width = size
    rows = torch.arange(height * width).reshape(size)
    rows = F.pad(rows, (0, -width % window, 0, -height % window), value=height * width)
    order = cut_windows(rows.roll((-shift, -shift), (0, 1)), window).flatten()
    return order, order.argsort(stable=True)[: height * width]


def cut_windows(image: Tensor, window: int) -> Tensor:
    """A map of whole windows (H, W), window after window: (n, w*w)."""
    down, across = (side // window for side in image.shape)
    windows = image.reshape(down, window, across, window).permute(0, 2, 1, 3)
    return windows.reshape(down * across, window * window)


def into_windows(x: Tensor, order: Tensor) -> Tensor:
    """Rows (B, N, C) in the order of windows (B, P, C), padded with a row of zeros if needed."""
    if len(order) > x.shape[1]:
        x = F.pad(x, (0, 0, 0, 1))
    return x.index_select(1, order)


def shift_mask(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """Keeps apart what a cyclic shift brought into one window: float32 (n, w*w, w*w)."""
    down, across = (_regions(side + -side % window, window, shift) for side in size)
    rows = cut_windows(3 * down[:, None] + across[None, :], window)
    return torch.where(rows[:, None, :] == rows[:, :, None], 0.0, APART)


def _regions(side: int, window: int, shift: int) -> Tensor:
    """Along one side: 1 in the last window, 2 in what the shift brought there, else 0."""
    region = torch.zeros(side, dtype=torch.long)
    region[-window:] = 1
    region[-shift:] = 2
    return region


def masked_grid(mask: Tensor) -> tuple[int, int] | None:
    """Rows and columns of the windows that a mask (n, w*w, w*w) is for.

    Only the windows of the last row and of the last column hold what must be kept apart. None
    where it is no such mask.
    """
    if mask.ndim != 3 or mask.numel() == 0:
        return None
    bordering = (mask != 0).flatten(1).any(dim=1)
    across = 1 + int(bordering.int().argmax())
    down, rest = divmod(len(mask), across)
    expected = torch.ones(down, across, dtype=torch.bool)
    expected[:-1, :-1] = False
    return (down, across) if rest == 0 and torch.equal(bordering, expected.flatten()) else None
