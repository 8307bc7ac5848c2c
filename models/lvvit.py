"""DynamicLVViT: LV-ViT (arXiv 2104.10858) that drops patch tokens at a few depths.

A vision transformer with a convolutional stem, scaled residuals, and two heads: one reads the
class token, the auxiliary one, which some are trained without, every patch token; their logits are
added, the latter by its best patch. Sparsification as in `dynexport.models.deit`. Parameter names
are the public code's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
from dynexport.models.untold import Alternative, Assumption
from dynexport.schedule import Selection, power_schedule

SKIP_LAM = {(240, 12): 1.0, (768, 24): 3.0}
"""What residual branches are divided by where that is not 2, by width and depth: the public code's
lvvit_t and lvvit_l."""

EPS = 1e-5
"""Of every LayerNorm, unless it is told."""

AUXILIARY = 0.5
"""Weight of the auxiliary head's best patch in the logits."""


@dataclass(frozen=True)
class LVViTConfig:
    """Everything that shapes a DynamicLVViT. Sizes in pixels, ``prune_at`` in block numbers.

    skip_lam              what every residual branch is divided by
    pos_grid              rows and columns that ``pos_embed`` was trained for, where no square
    norm_eps, activation  of the blocks' LayerNorms and MLPs; see `dynexport.models.activations`
    aux_head              whether an auxiliary head reads the patches
    """

    embed_dim: int
    num_heads: int
    depth: int
    prune_at: tuple[int, ...]
    patch_size: int = 16
    img_size: ImageSize = USUAL
    num_classes: int = 1000
    in_chans: int = 3
    stem_dim: int = 64
    mlp_dim: int = 0
    qkv_bias: bool = False
    skip_lam: float = 2.0
    pos_grid: tuple[int, int] | None = None
    norm_eps: float = EPS
    activation: str = "gelu"
    aux_head: bool = True

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 3 * self.embed_dim)
        object.__setattr__(self, "prune_at", tuple(self.prune_at))
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        object.__setattr__(self, "pos_grid", self.pos_grid and tuple(self.pos_grid))
        require_sizes(self)
        require_numerics(self)
        if self.patch_size % 2:
            raise ModelError(
                f"patch size {self.patch_size} is odd: LV-ViT's stem halves the image before "
                "its patches, so give an even one"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size.patches(self.patch_size)

    @property
    def num_tokens(self) -> int:
        """Patches in the grid, the class token not counted."""
        return math.prod(self.grid)


class ConvStem(nn.Module):
    """Image (B, C, H, W) to patch tokens (B, N, C): three convolutions, then a strided one."""

    def __init__(self, config: LVViTConfig) -> None:
        super().__init__()
        width, half = config.stem_dim, config.patch_size // 2
        self.conv1 = nn.Conv2d(config.in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.proj = nn.Conv2d(width, config.embed_dim, half, stride=half)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.proj(x).flatten(2).transpose(1, 2)

    def inference_form(self) -> ConvStem:
        """The same stem, each batch norm folded into the convolution before it."""
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            setattr(self, conv, fuse_conv_bn_eval(getattr(self, conv), getattr(self, norm)))
            setattr(self, norm, nn.Identity())
        return self


class DynamicLVViT(SparseModel):
    """LV-ViT with a sparsifier before each block of ``config.prune_at``.

    images (B, C, H, W) -> `Output`: logits (B, classes), the tokens' history, and in training
    mode the auxiliary head's logits for every patch (B, N, classes), which distillation compares;
    without that head the normalised patches (B, N, C).
    """

    sparsifiers = "score_predictor"
    selection = Selection(nested=True, leading=1)

    def __init__(self, config: LVViTConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        dim, residual = config.embed_dim, 1 / config.skip_lam
        self.patch_embed = ConvStem(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_tokens, dim))
        self.blocks = nn.ModuleList(
            Block(
                *(dim, config.num_heads, config.mlp_dim, config.qkv_bias, config.norm_eps),
                residual=residual,
                drop_path=rate,
                activation=config.activation,
            )
            for rate in drop_path_rates(drop_path, config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self.aux_head = nn.Linear(dim, config.num_classes) if config.aux_head else None
        self.score_predictor = nn.ModuleList(GumbelMask(dim) for _ in config.prune_at)
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        patches = self.patch_embed(images)
        tokens = Tokens(add_class_and_position(patches, self.cls_token, self.pos_embed))
        tokens = through_blocks(tokens, self.blocks, self.score_predictor, self.config.prune_at)
        if self.aux_head is None and not self.training:
            return Output({"logits": self.head(self.norm(tokens.x[:, 0]))}, tokens)
        x = self.norm(tokens.x)
        if self.aux_head is None:
            return Output({"logits": self.head(x[:, 0])}, tokens, features=x[:, 1:])
        auxiliary = self.aux_head(x[:, 1:])
        alive = auxiliary
        if tokens.mask is not None and not self.training:
            # a masked token is still computed here; the gathered form does not have it
            alive = auxiliary.masked_fill(tokens.mask[:, 1:, None] == 0, -torch.inf)
        logits = self.head(x[:, 0]) + AUXILIARY * alive.amax(dim=1)
        return Output({"logits": logits}, tokens, features=auxiliary if self.training else None)


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DynamicLVViT's: a vision transformer's, a convolutional stem."""
    marks = ("cls_token", "pos_embed", "patch_embed.conv1.weight", "blocks.0.attn.qkv.weight")
    return all(name in shapes for name in marks)


def read_config(shapes: Shapes, hints: Hints) -> LVViTConfig:
    """The configuration these tensors describe; ``hints`` settles what shapes cannot say."""
    embed_dim, stem_dim, half, _ = shape_of(shapes, "patch_embed.proj.weight", 4)
    size = read_size(shape_of(shapes, "pos_embed", 3)[1] - 1, 2 * half, hints)
    depth = count_modules(shapes, "blocks")
    known = [variant.prune_at for variant in VARIANTS.values() if variant.depth == depth]
    prune_at, num_heads = read_prune_at_and_heads(
        shapes, "score_predictor", depth, known, embed_dim, hints
    )
    return LVViTConfig(
        embed_dim=embed_dim,
        num_heads=num_heads,
        depth=depth,
        prune_at=prune_at,
        patch_size=2 * half,
        img_size=size,
        pos_grid=size.oblong_patches(2 * half),
        num_classes=shape_of(shapes, "head.weight", 2)[0],
        in_chans=shape_of(shapes, "patch_embed.conv1.weight", 4)[1],
        stem_dim=stem_dim,
        mlp_dim=shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        skip_lam=_skip_lam(hints) or SKIP_LAM.get((embed_dim, depth), 2.0),
        norm_eps=read_norm_eps(hints, EPS),
        activation=read_activation(hints),
        aux_head="aux_head.weight" in shapes,
    )


def _skip_lam(hints: Hints) -> float | None:
    """What was recorded, or said, of the residual branches."""
    told = hints.get("skip_lam")
    return float(told) if isinstance(told, (int, float)) and told > 0 else None


def assumptions(config: LVViTConfig, hints: Hints) -> Iterator[Assumption]:
    """What no tensor tells."""
    yield from assumed_usual(config, hints)
    if _skip_lam(hints) is None:
        told = f"residual branches divided by {config.skip_lam:g}"
        yield Assumption(told, "args", "skip_lam=1")


def alternatives(config: LVViTConfig) -> Iterator[Alternative]:
    """Other residual factors: those of the public code's models."""
    for told in (1.0, 2.0, 3.0):
        if told != config.skip_lam:
            yield Alternative(f"`args` skip_lam={told:g}", {"skip_lam": told})


VARIANTS = {
    "lvvit-s": LVViTConfig(embed_dim=384, num_heads=6, depth=16, prune_at=(4, 8, 12)),
    "lvvit-m": LVViTConfig(embed_dim=512, num_heads=8, depth=20, prune_at=(5, 10, 15)),
}

FAMILY = Family(
    name="lvvit",
    model=DynamicLVViT,
    config=LVViTConfig,
    variants=VARIANTS,
    schedule=power_schedule,
    matches=matches,
    read_config=read_config,
    assumptions=assumptions,
    alternatives=alternatives,
    fit=resize_positions,
    published_top1={"lvvit-s": 83.08, "lvvit-m": 83.82},
)
