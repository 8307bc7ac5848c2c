"""DynamicSwin: Swin Transformer (arXiv 2103.14030) whose third stage has two paths.

Sparsification: arXiv 2207.01580, section 3.4. Parameter and buffer names are the public code's,
so its checkpoints load strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.models.dualpath import GumbelSplit, through_two_paths
from dynexport.models.layers import DropPath, Mlp, drop_path_rates, initialise, linear_from
from dynexport.models.protocol import (
    Family,
    Hints,
    Output,
    Shapes,
    SparseModel,
    count_modules,
    read_prune_at,
    require_blocks,
    shape_of,
)
from dynexport.models.sparsifiers import Tokens

SPARSE_STAGE = 2
"""The third stage, where most blocks are, is the one with two paths."""

APART = -100.0
"""Added to the attention of positions that the cyclic shift brought into one window."""


@dataclass(frozen=True)
class SwinConfig:
    """Everything that shapes a DynamicSwin. ``prune_at`` counts blocks of the third stage.

    windows: side of the attention windows, per stage. Maps they do not fill are padded with
    zeros below and to the right, as detection backbones do; so any image size goes.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    prune_at: tuple[int, ...]
    windows: tuple[int, ...] = (7, 7, 7, 7)
    patch_size: int = 4
    img_size: int = 224
    num_classes: int = 1000
    in_chans: int = 3
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads", "prune_at", "windows"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("depths", "num_heads", "windows"):
            numbers = getattr(self, name)
            if len(numbers) != 4 or min(numbers) < 1:
                raise ModelError(f"{name} is {list(numbers)}: a Swin has four stages, give four")
        for stage, heads in enumerate(self.num_heads):
            if self.dim(stage) % heads:
                raise ModelError(
                    f"{self.dim(stage)} channels of stage {stage + 1} do not divide into {heads} "
                    "heads: give a number of heads that divides the width"
                )
        if min(self.img_size, self.patch_size, self.num_classes, self.in_chans) < 1:
            raise ModelError(f"every size of a Swin must be at least 1, found {self}")
        require_blocks(self.prune_at, self.depths[SPARSE_STAGE])

    def dim(self, stage: int) -> int:
        """Channels of a stage."""
        return self.embed_dim * 2**stage

    def grid(self, stage: int) -> int:
        """Side of a stage's map, positions."""
        return -(-self.img_size // (self.patch_size * 2**stage))

    @property
    def num_tokens(self) -> int:
        """Positions of the third stage's map, all of which every sparsifier ranks."""
        return self.grid(SPARSE_STAGE) ** 2


class PatchEmbed(nn.Module):
    """Image (B, 3, H, W) to a map of rows (B, H/p * W/p, C), normalised."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.missing = -config.img_size % size
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, kernel_size=size, stride=size)
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        if self.missing:
            images = F.pad(images, (0, self.missing, 0, self.missing))
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class PatchMerging(nn.Module):
    """Four neighbours to one position of twice the width: (B, H*W, C) -> (B, H*W/4, 2C)."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        side, dim = self.side, x.shape[-1]
        x = x.reshape(-1, side, side, dim)
        if side % 2:
            x = F.pad(x, (0, 0, 0, 1, 0, 1))
        half = (side + 1) // 2
        x = x.reshape(-1, half, 2, half, 2, dim)
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(-1, half * half, 4 * dim)
        return self.reduction(self.norm(x))


class FastMlp(nn.Module):
    """The fast path: LayerNorm and one Linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x)


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for every relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        table = torch.zeros((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", relative_positions(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def bias(self) -> Tensor:
        """What each pair of positions in a window adds to attention: (heads, w*w, w*w)."""
        index = self.relative_position_index
        return self.relative_position_bias_table[index.flatten()].T.reshape(-1, *index.shape)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """windows (B, n, w*w, C), mask (n, w*w, w*w) or None -> (B, n, w*w, C)."""
        shape = windows.shape
        head_dim = shape[-1] // self.num_heads
        qkv = self.qkv(windows).reshape(*shape[:3], 3, self.num_heads, head_dim)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        scores = (q * head_dim**-0.5) @ k.transpose(-2, -1) + self.bias()
        if mask is not None:
            scores = scores + mask.unsqueeze(1)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(2, 3).reshape(shape))


def relative_positions(window: int) -> Tensor:
    """For each pair of positions in a window, its row in the bias table: int64 (w*w, w*w)."""
    axis = torch.arange(window)
    rows = axis.repeat_interleave(window)
    columns = axis.repeat(window)
    down = rows[:, None] - rows[None, :] + window - 1
    across = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + across


def window_order(side: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """How rows go into windows and back: int64 (P,) and (side*side,).

    The first lists, window after window after a cyclic shift, the rows of a map padded to whole
    windows (P positions); row side*side stands for padding. The second finds each row again.
    """
    padded = side + -side % window
    rows = torch.full((padded, padded), side * side)
    rows[:side, :side] = torch.arange(side * side).reshape(side, side)
    count = padded // window
    shifted = rows.roll((-shift, -shift), (0, 1)).reshape(count, window, count, window)
    order = shifted.permute(0, 2, 1, 3).flatten()
    return order, order.argsort(stable=True)[: side * side]


def into_windows(x: Tensor, order: Tensor) -> Tensor:
    """Rows (B, N, C) in the order of windows (B, P, C), padded with a row of zeros if needed."""
    if len(order) > x.shape[1]:
        x = F.pad(x, (0, 0, 0, 1))
    return x.index_select(1, order)


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """Keeps apart what a cyclic shift brought into one window: float32 (n, w*w, w*w)."""
    padded = side + -side % window
    region = torch.zeros(padded, dtype=torch.long)
    region[-window:] = 1
    region[-shift:] = 2
    count = padded // window
    regions = (3 * region[:, None] + region[None, :]).reshape(count, window, count, window)
    rows = regions.permute(0, 2, 1, 3).reshape(count * count, window * window)
    return torch.where(rows[:, None, :] == rows[:, :, None], 0.0, APART)


class SwinBlock(nn.Module):
    """Window attention, then the MLP or, where the third stage is split, one of two paths."""

    attn_mask: Tensor | None

    def __init__(
        self, config: SwinConfig, stage: int, shifted: bool, two_paths: bool, drop_path: float
    ) -> None:
        super().__init__()
        dim, self.side = config.dim(stage), config.grid(stage)
        self.window = config.windows[stage]
        self.shift = self.window // 2 if shifted and self.side > self.window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, self.window, config.num_heads[stage])
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.fastmlp = FastMlp(dim) if two_paths else None
        mask = shift_mask(self.side, self.window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask)

    def forward(self, tokens: Tokens) -> Tokens:
        x = tokens.x
        order, back = (t.to(x.device) for t in window_order(self.side, self.window, self.shift))
        windows = into_windows(self.norm1(x), order).unflatten(1, (-1, self.window**2))
        mixed = self.attn(windows, self.attn_mask).flatten(1, 2)
        x = x + self.drop_path(mixed.index_select(1, back))
        return tokens._replace(x=x + self.drop_path(feed_forward(self, x, tokens)))

    def inference_form(self) -> LeanSwinBlock:
        return LeanSwinBlock(self)


def feed_forward(block: SwinBlock | LeanSwinBlock, x: Tensor, tokens: Tokens) -> Tensor:
    """A block's MLP, or whichever of its two paths each position of x (B, N, C) takes."""
    if block.fastmlp is None:
        return block.mlp(block.norm2(x))
    return through_two_paths(x, tokens, lambda rows: block.mlp(block.norm2(rows)), block.fastmlp)


class LeanSwinBlock(nn.Module):
    """Inference: the same block with everything fixed folded to constants.

    Shift and windows are one gather of rows there and one back; bias and mask one constant added
    once; the scale rides on the query projection.
    """

    order: Tensor
    back: Tensor
    bias: Tensor

    def __init__(self, trained: SwinBlock) -> None:
        super().__init__()
        attention = trained.attn
        self.num_heads = attention.num_heads
        self.window_rows = trained.window**2
        self.norm1, self.norm2 = trained.norm1, trained.norm2
        self.mlp, self.fastmlp = trained.mlp, trained.fastmlp
        self.proj = attention.proj
        dim = attention.proj.in_features
        scale = torch.ones(3 * dim, 1)
        scale[:dim] = (dim // self.num_heads) ** -0.5
        self.qkv = linear_from(attention.qkv.weight * scale, attention.qkv.bias * scale[:, 0])
        bias = attention.bias().detach().unsqueeze(0)
        if trained.attn_mask is not None:
            bias = bias + trained.attn_mask.unsqueeze(1)
        order, back = window_order(trained.side, trained.window, trained.shift)
        self.register_buffer("bias", bias)
        self.register_buffer("order", order)
        self.register_buffer("back", back)

    def forward(self, tokens: Tokens) -> Tokens:
        x = tokens.x
        mixed = self.attend(into_windows(self.norm1(x), self.order))
        x = x + mixed.index_select(1, self.back)
        return tokens._replace(x=x + feed_forward(self, x, tokens))

    def attend(self, x: Tensor) -> Tensor:
        """x (B, n * w*w, C), window after window -> the same shape."""
        batch, rows, dim = x.shape
        windows = (batch, rows // self.window_rows, self.window_rows)
        heads = (*windows, self.num_heads, dim // self.num_heads)
        q, k, v = self.qkv(x).split(dim, dim=-1)
        q = q.reshape(heads).permute(0, 1, 3, 2, 4)
        k = k.reshape(heads).permute(0, 1, 3, 4, 2)
        v = v.reshape(heads).permute(0, 1, 3, 2, 4)
        mixed = torch.matmul((torch.matmul(q, k) + self.bias).softmax(dim=-1), v)
        return self.proj(mixed.permute(0, 1, 3, 2, 4).reshape(batch, rows, dim))


class Stage(nn.Module):
    """Blocks at one resolution, then the merging of neighbours."""

    def __init__(self, config: SwinConfig, stage: int, rates: list[float]) -> None:
        super().__init__()
        sparse = stage == SPARSE_STAGE
        self.prune_at = config.prune_at if sparse else ()
        self.blocks = nn.ModuleList(
            SwinBlock(
                config,
                stage,
                shifted=block % 2 == 1,
                two_paths=sparse and block >= config.prune_at[0],
                drop_path=rate,
            )
            for block, rate in enumerate(rates)
        )
        dim, side = config.dim(stage), config.grid(stage)
        self.downsample = PatchMerging(dim, side) if stage < 3 else None
        if sparse:
            self.score_predictor = nn.ModuleList(GumbelSplit(dim) for _ in self.prune_at)

    def forward(self, tokens: Tokens) -> Tokens:
        for index, block in enumerate(self.blocks):
            if index in self.prune_at:
                tokens = self.score_predictor[self.prune_at.index(index)](tokens)
            tokens = block(tokens)
        if self.downsample is None:
            return tokens
        return tokens._replace(x=self.downsample(tokens.x), mask=None, places=None)


class DynamicSwin(SparseModel):
    """Swin with a sparsifier before each block of ``config.prune_at`` in its third stage.

    images (B, 3, H, W) -> `Output`: logits (B, classes), the history of decisions, and in
    training mode the last map, normalised (B, N/4, C), which distillation compares.
    """

    sparsifiers = f"layers.{SPARSE_STAGE}.score_predictor"
    selection = "grid"

    def __init__(self, config: SwinConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config)
        rates = drop_path_rates(drop_path, sum(config.depths))
        starts = [sum(config.depths[:stage]) for stage in range(5)]
        self.layers = nn.ModuleList(
            Stage(config, stage, rates[starts[stage] : starts[stage + 1]]) for stage in range(4)
        )
        self.norm = nn.LayerNorm(config.dim(3))
        self.head = nn.Linear(config.dim(3), config.num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        tokens = Tokens(self.patch_embed(images))
        for layer in self.layers:
            tokens = layer(tokens)
        x = self.norm(tokens.x)
        return Output(self.head(x.mean(dim=1)), tokens, features=x if self.training else None)


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DynamicSwin's."""
    return "layers.0.blocks.0.attn.relative_position_bias_table" in shapes


def read_config(shapes: Shapes, hints: Hints) -> SwinConfig:
    """The configuration these tensors describe; the image size from the shifted blocks' masks."""
    embed_dim, in_chans, patch_size, _ = shape_of(shapes, "patch_embed.proj.weight", 4)
    depths = tuple(count_modules(shapes, f"layers.{stage}.blocks") for stage in range(4))
    tables = [
        shape_of(shapes, f"layers.{s}.blocks.0.attn.relative_position_bias_table", 2)
        for s in range(4)
    ]
    windows = tuple((round(rows**0.5) + 1) // 2 for rows, _ in tables)
    name = "layers.0.blocks.1.attn_mask"
    count = shape_of(shapes, name, 3)[0] if name in shapes else 1
    predictors = f"layers.{SPARSE_STAGE}.score_predictor"
    known = [variant.prune_at for variant in VARIANTS.values() if variant.depths == depths]
    return SwinConfig(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(heads for _, heads in tables),
        prune_at=read_prune_at(shapes, predictors, depths[SPARSE_STAGE], known, hints),
        windows=windows,
        patch_size=patch_size,
        img_size=round(count**0.5) * windows[0] * patch_size,
        num_classes=shape_of(shapes, "head.weight", 2)[0],
        in_chans=in_chans,
        mlp_ratio=shape_of(shapes, "layers.0.blocks.0.mlp.fc1.weight", 2)[0] / embed_dim,
    )


def resize(state: Mapping[str, Tensor], config: SwinConfig) -> dict[str, Tensor]:
    """The tensors with the shifted windows' masks rebuilt for the configuration's image size."""
    resized = {name: value for name, value in state.items() if not name.endswith(".attn_mask")}
    for stage, depth in enumerate(config.depths):
        side, window = config.grid(stage), config.windows[stage]
        if side > window > 1:
            mask = shift_mask(side, window, window // 2)
            resized |= {f"layers.{stage}.blocks.{b}.attn_mask": mask for b in range(1, depth, 2)}
    return resized


VARIANTS = {
    "swin-t": SwinConfig(96, (2, 2, 6, 2), (3, 6, 12, 24), (1, 2, 3)),
    "swin-s": SwinConfig(96, (2, 2, 18, 2), (3, 6, 12, 24), (2, 4, 6)),
    "swin-b": SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), (2, 4, 6)),
}

FAMILY = Family(
    name="swin",
    model=DynamicSwin,
    config=SwinConfig,
    variants=VARIANTS,
    schedule="linear",
    matches=matches,
    read_config=read_config,
    resize=resize,
    published_top1={"swin-t": 80.91, "swin-s": 83.21, "swin-b": 83.43},
)
