"""DynamicDeiT: a plain vision transformer that drops patch tokens at a few depths.

Backbone: DeiT (arXiv 2012.12877). Sparsification: DynamicViT (arXiv 2106.02034, 2207.01580).
Parameter names are those of the public code, so its checkpoints load strictly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynexport.images.size import USUAL, ImageSize
from dynexport.models.activations import require_numerics
from dynexport.models.assumptions import assumed_usual, read_activation, read_norm_eps
from dynexport.models.layers import (
    Block,
    add_class_and_position,
    drop_path_rates,
    initialise,
    resize_positions,
)
from dynexport.models.protocol import (
    Family,
    Hints,
    Output,
    Shapes,
    SparseModel,
    count_modules,
    read_prune_at_and_heads,
    read_size,
    require_sizes,
    shape_of,
)
from dynexport.models.sparsifiers import GumbelMask, Tokens, through_blocks
from dynexport.schedule import Selection, power_schedule

EPS = 1e-6
"""Of every LayerNorm, but for the predictors', unless it is told."""


@dataclass(frozen=True)
class DeiTConfig:
    """Everything that shapes a DynamicDeiT. Sizes in pixels, ``prune_at`` in block numbers.

    pos_grid  rows and columns that ``pos_embed`` was trained for, where these were no square
    norm_eps, activation  of the blocks' LayerNorms and MLPs; see `dynexport.models.activations`
    """

    embed_dim: int
    num_heads: int
    depth: int = 12
    prune_at: tuple[int, ...] = (3, 6, 9)
    patch_size: int = 16
    img_size: ImageSize = USUAL
    num_classes: int = 1000
    in_chans: int = 3
    mlp_dim: int = 0
    qkv_bias: bool = True
    pos_grid: tuple[int, int] | None = None
    norm_eps: float = EPS
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.embed_dim)
        object.__setattr__(self, "prune_at", tuple(self.prune_at))
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        object.__setattr__(self, "pos_grid", self.pos_grid and tuple(self.pos_grid))
        require_sizes(self)
        require_numerics(self)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size.patches(self.patch_size)

    @property
    def num_tokens(self) -> int:
        """Patches in the grid, the class token not counted."""
        return math.prod(self.grid)


class PatchEmbed(nn.Module):
    """Image (B, 3, H, W) to patch tokens (B, N, C) with one strided convolution."""

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class DynamicDeiT(SparseModel):
    """DeiT with a sparsifier before each block of ``config.prune_at``.

    images (B, 3, H, W) -> `Output`: logits (B, classes), the tokens' history, and in training
    mode the normalised patch features (B, N, C) that distillation compares.
    """

    sparsifiers = "score_predictor"
    selection = Selection(nested=True, leading=1)

    def __init__(self, config: DeiTConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.in_chans, dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_tokens, dim))
        self.blocks = nn.ModuleList(
            Block(
                *(dim, config.num_heads, config.mlp_dim, config.qkv_bias, config.norm_eps),
                drop_path=rate,
                activation=config.activation,
            )
            for rate in drop_path_rates(drop_path, config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self.score_predictor = nn.ModuleList(GumbelMask(dim) for _ in config.prune_at)

        initialise(self)

    def forward(self, images: Tensor) -> Output:
        patches = self.patch_embed(images)
        tokens = Tokens(add_class_and_position(patches, self.cls_token, self.pos_embed))
        tokens = through_blocks(tokens, self.blocks, self.score_predictor, self.config.prune_at)
        if self.training:
            x = self.norm(tokens.x)
            return Output({"logits": self.head(x[:, 0])}, tokens, features=x[:, 1:])
        return Output({"logits": self.head(self.norm(tokens.x[:, 0]))}, tokens)


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DynamicDeiT's: transformer blocks, predictors, a flat stem."""
    marks = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    return (
        all(name in shapes for name in marks)
        and "aux_head.weight" not in shapes
        and "patch_embed.conv1.weight" not in shapes
    )


def read_config(shapes: Shapes, hints: Hints) -> DeiTConfig:
    """The configuration these tensors describe; ``hints`` settles what shapes cannot say."""
    embed_dim, in_chans, patch_size, _ = shape_of(shapes, "patch_embed.proj.weight", 4)
    size = read_size(shape_of(shapes, "pos_embed", 3)[1] - 1, patch_size, hints)
    depth = count_modules(shapes, "blocks")
    known = [variant.prune_at for variant in VARIANTS.values() if variant.depth == depth]
    prune_at, num_heads = read_prune_at_and_heads(
        shapes, "score_predictor", depth, known, embed_dim, hints
    )
    return DeiTConfig(
        embed_dim=embed_dim,
        num_heads=num_heads,
        depth=depth,
        prune_at=prune_at,
        patch_size=patch_size,
        img_size=size,
        pos_grid=None if size.square else size.patches(patch_size),
        num_classes=shape_of(shapes, "head.weight", 2)[0],
        in_chans=in_chans,
        mlp_dim=shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        norm_eps=read_norm_eps(hints, EPS),
        activation=read_activation(hints),
    )


VARIANTS = {
    "deit-256": DeiTConfig(embed_dim=256, num_heads=4),
    "deit-s": DeiTConfig(embed_dim=384, num_heads=6),
    "deit-b": DeiTConfig(embed_dim=768, num_heads=12),
}

FAMILY = Family(
    name="deit",
    model=DynamicDeiT,
    config=DeiTConfig,
    variants=VARIANTS,
    schedule=power_schedule,
    matches=matches,
    read_config=read_config,
    assumptions=assumed_usual,
    fit=resize_positions,
    published_top1={"deit-256": 76.53, "deit-s": 79.32, "deit-b": 81.43},
)
