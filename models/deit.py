"""DynamicDeiT: a plain vision transformer that drops patch tokens at a few depths.

Backbone: DeiT (arXiv 2012.12877), and what vision transformers have beside: a distillation token,
registers (arXiv 2309.16588), layer scale, a mean for the head to read. Sparsification: DynamicViT
(arXiv 2106.02034, 2207.01580). Parameter names are those of the public code and of timm, so their
checkpoints load strictly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from dynexport.errors import ModelError
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
from dynexport.models.leading import LEADING, assumed_positions, read_leading, read_positions
from dynexport.models.protocol import (
    Family,
    Hints,
    Output,
    Shapes,
    SparseModel,
    count_modules,
    read_prune_at_and_heads,
    require_sizes,
    shape_of,
)
from dynexport.models.readout import (
    BOTH,
    TOKEN,
    assumed_pooling,
    other_poolings,
    pool,
    pre_logits,
    read_pooling,
    require_pooling,
)
from dynexport.models.sparsifiers import GumbelMask, Tokens, through_blocks
from dynexport.models.untold import Assumption
from dynexport.schedule import Selection, power_schedule

EPS = 1e-6
"""Of every LayerNorm, but for the predictors', unless it is told."""


@dataclass(frozen=True)
class DeiTConfig:
    """Everything that shapes a DynamicDeiT. Sizes in pixels, ``prune_at`` in block numbers.

    pos_grid        rows and columns that ``pos_embed`` was trained for, where these were no square
    norm_eps, activation  of the blocks' LayerNorms and MLPs; see `dynexport.models.activations`
    class_token, dist_token, registers  tokens that lead the patches, in this order
    unplaced        how many of them, the last ones, have no position embedding
    layer_scale     whether a learned factor a channel scales each branch
    global_pool     what the head reads, see `dynexport.models.readout`
    norm, fc_norm   whether tokens are normalised before it is read, and that after
    representation  width of a Linear and a tanh before the head; 0: there are none
    head_dist       whether a second head reads the distillation token; the mean of both is told
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
    class_token: bool = True
    dist_token: bool = False
    registers: int = 0
    unplaced: int = 0
    layer_scale: bool = False
    global_pool: str = TOKEN
    norm: bool = True
    fc_norm: bool = False
    representation: int = 0
    head_dist: bool = False

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.embed_dim)
        object.__setattr__(self, "prune_at", tuple(self.prune_at))
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        object.__setattr__(self, "pos_grid", self.pos_grid and tuple(self.pos_grid))
        require_sizes(self)
        require_numerics(self)
        require_pooling(self.global_pool, self.class_token)
        if self.head_dist and not (self.class_token and self.dist_token):
            raise ModelError(
                "a second head, 'head_dist', reads a distillation token behind a class token, and "
                "the model has not both: its checkpoint is incomplete"
            )

    @property
    def leading(self) -> int:
        """Tokens that lead the patches."""
        return self.class_token + self.dist_token + self.registers

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size.patches(self.patch_size)

    @property
    def num_tokens(self) -> int:
        """Patches in the grid, leading tokens not counted."""
        return math.prod(self.grid)


class PatchEmbed(nn.Module):
    """Image (B, C, H, W) to patch tokens (B, N, C) with one strided convolution."""

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class DynamicDeiT(SparseModel):
    """DeiT with a sparsifier before each block of ``config.prune_at``.

    images (B, C, H, W) -> `Output`: logits (B, classes), the tokens' history, and in training
    mode the normalised patch features (B, N, C) that distillation compares.
    """

    sparsifiers = "score_predictor"

    def __init__(self, config: DeiTConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.selection = Selection(nested=True, leading=config.leading)
        dim, placed = config.embed_dim, config.leading - config.unplaced
        self.patch_embed = PatchEmbed(config.in_chans, dim, config.patch_size)
        for name, count in leading_tokens(config).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(1, count, dim)))
        self.pos_embed = nn.Parameter(torch.zeros(1, placed + config.num_tokens, dim))
        self.blocks = nn.ModuleList(
            Block(
                *(dim, config.num_heads, config.mlp_dim, config.qkv_bias, config.norm_eps),
                drop_path=rate,
                activation=config.activation,
                layer_scale=config.layer_scale,
            )
            for rate in drop_path_rates(drop_path, config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.norm else nn.Identity()
        read = 2 * dim if config.global_pool == BOTH else dim
        fc_norm = nn.LayerNorm(read, eps=config.norm_eps) if config.fc_norm else nn.Identity()
        self.fc_norm = fc_norm
        self.pre_logits, read = pre_logits(read, config.representation)
        self.head = nn.Linear(read, config.num_classes)
        self.head_dist = nn.Linear(dim, config.num_classes) if config.head_dist else None
        self.score_predictor = nn.ModuleList(
            GumbelMask(dim, config.leading) for _ in config.prune_at
        )
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        leading = [getattr(self, name) for name in leading_tokens(self.config)]
        patches, unplaced = self.patch_embed(images), self.config.unplaced
        first = torch.cat(leading, dim=1) if leading else self.pos_embed[:, :0]
        tokens = Tokens(add_class_and_position(patches, first, self.pos_embed, unplaced))
        tokens = through_blocks(tokens, self.blocks, self.score_predictor, self.config.prune_at)
        features = self.norm(tokens.x[:, self.config.leading :]) if self.training else None
        return Output({"logits": self.read_out(tokens)}, tokens, features)

    def read_out(self, tokens: Tokens) -> Tensor:
        """The logits (B, classes) of the tokens after the last block."""
        if self.config.global_pool == TOKEN:
            read = self.norm(tokens.x[:, 0])  # no other row is normalised
        else:
            normed = tokens._replace(x=self.norm(tokens.x))
            read = pool(normed, self.config.global_pool, self.config.leading)
        logits = self.head(self.pre_logits(self.fc_norm(read)))
        if self.head_dist is not None:
            logits = (logits + self.head_dist(self.norm(tokens.x[:, 1]))) / 2
        return logits


def leading_tokens(config: DeiTConfig) -> dict[str, int]:
    """The parameters that hold the leading tokens, in order, and how many each holds."""
    counts = (config.class_token, config.dist_token, config.registers)
    return {name: int(count) for name, count in zip(LEADING, counts, strict=True) if count}


OTHER_NAMES = {r"^register_tokens$": "reg_token", r"\.gamma_([12])$": r".ls\1.gamma"}
"""What DINOv2 calls registers, and DeiT III layer scales, in timm's terms."""

T = TypeVar("T")

MASK_TOKEN = "mask_token"
"""Stands for a patch hidden in DINOv2's training; nothing reads it later."""


def in_our_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors, or their shapes, by the names of the model's own."""
    named = {}
    for name, tensor in tensors.items():
        for pattern, ours in OTHER_NAMES.items():
            name = re.sub(pattern, ours, name)
        if name != MASK_TOKEN:
            named[name] = tensor
    return named


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DynamicDeiT's: transformer blocks, predictors, a flat stem."""
    marks = ("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    reads = ("cls_token", "reg_token", "register_tokens", "fc_norm.weight")
    return (
        all(name in shapes for name in marks)
        and any(name in shapes for name in reads)
        and "aux_head.weight" not in shapes
        and "patch_embed.conv1.weight" not in shapes
    )


def read_config(shapes: Shapes, hints: Hints) -> DeiTConfig:
    """The configuration these tensors describe; ``hints`` settles what shapes cannot say."""
    shapes = in_our_names(shapes)
    embed_dim, in_chans, patch_size, _ = shape_of(shapes, "patch_embed.proj.weight", 4)
    counts = read_leading(shapes)
    size, unplaced = read_positions(shapes, counts, patch_size, hints)
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
        pos_grid=size.oblong_patches(patch_size),
        num_classes=shape_of(shapes, "head.weight", 2)[0],
        in_chans=in_chans,
        mlp_dim=shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        norm_eps=read_norm_eps(hints, EPS),
        activation=read_activation(hints),
        class_token=bool(counts[0]),
        dist_token=bool(counts[1]),
        registers=counts[2],
        unplaced=unplaced,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        global_pool=read_pooling(shapes, hints, embed_dim),
        norm="norm.weight" in shapes or "fc_norm.weight" not in shapes,
        fc_norm="fc_norm.weight" in shapes,
        representation=shapes.get("pre_logits.fc.weight", (0,))[0],
        head_dist="head_dist.weight" in shapes,
    )


def fit(state: Mapping[str, Tensor], config: DeiTConfig) -> dict[str, Tensor]:
    """The tensors by our names, positions fitted to the configuration's image size."""
    return resize_positions(in_our_names(state), config, config.leading - config.unplaced)


def assumptions(config: DeiTConfig, hints: Hints) -> Iterator[Assumption]:
    """What no tensor tells."""
    yield from assumed_usual(config, hints)
    yield from assumed_positions(config, hints)
    yield from assumed_pooling(config, hints)


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
    assumptions=assumptions,
    alternatives=other_poolings,
    fit=fit,
    published_top1={"deit-256": 76.53, "deit-s": 79.32, "deit-b": 81.43},
)
