"""DynamicSwin: Swin Transformer (arXiv 2103.14030) whose third stage has two paths.

Sparsification: arXiv 2207.01580, section 3.4. Parameter and buffer names are the public code's,
so its checkpoints load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.images.size import USUAL, ImageSize
from dynexport.models.activations import require_numerics
from dynexport.models.assumptions import assumed_usual, read_activation, read_norm_eps
from dynexport.models.dualpath import SPARSE_STAGE, GumbelSplit, MapsConfig
from dynexport.models.features import TASKS, StageNorms, fit_stage_norms, require_task
from dynexport.models.layers import drop_path_rates, initialise
from dynexport.models.patches import (
    POSITIONS,
    PatchEmbed,
    PatchMerging,
    fit_absolute,
    read_img_size,
    read_values,
)
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
from dynexport.models.windows import SwinBlock, shift_mask
from dynexport.schedule import Selection, linear_schedule
from dynexport.tasks.classify import CLASSIFY
from dynexport.tasks.features import FEATURES

EPS = 1e-5
"""Of every LayerNorm, unless it is told."""


@dataclass(frozen=True)
class SwinConfig(MapsConfig):
    """Everything that shapes a DynamicSwin. ``prune_at`` counts blocks of the third stage.

    windows: side of the attention windows, per stage. Maps they do not fill are padded with
    zeros below and to the right, as detection backbones do; so any image size goes.
    norm_eps, activation: of LayerNorms and MLPs; see `dynexport.models.activations`

    qkv_bias            whether queries, keys and values have a bias
    patch_norm          whether patches are normalised
    absolute_positions  whether the first map has position embeddings; pos_grid: rows and columns
                        they were trained for, where these were no square
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    prune_at: tuple[int, ...]
    windows: tuple[int, ...] = (7, 7, 7, 7)
    patch_size: int = 4
    img_size: ImageSize = USUAL
    num_classes: int = 1000
    task: str = CLASSIFY.name
    in_chans: int = 3
    mlp_ratio: float = 4.0
    norm_eps: float = EPS
    activation: str = "gelu"
    qkv_bias: bool = True
    patch_norm: bool = True
    absolute_positions: bool = False
    pos_grid: tuple[int, int] | None = None

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
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        object.__setattr__(self, "pos_grid", self.pos_grid and tuple(self.pos_grid))
        if min(self.patch_size, self.in_chans) < 1:
            raise ModelError(f"every size of a Swin must be at least 1, found {self}")
        require_task(self.task, self.num_classes)
        require_numerics(self)
        require_blocks(self.prune_at, self.depths[SPARSE_STAGE])

    def dim(self, stage: int) -> int:
        """Channels of a stage."""
        return self.embed_dim * 2**stage

    def map_size(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage's map, positions."""
        height, width = (-(-side // (self.patch_size * 2**stage)) for side in self.img_size)
        return height, width

    def shifts(self, stage: int) -> bool:
        """Whether a stage's map is larger than one window, so that every other block shifts it."""
        return min(self.map_size(stage)) > self.windows[stage] > 1


class Stage(nn.Module):
    """Blocks at one resolution, and the merging of neighbours that follows them."""

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
                rate=rate,
            )
            for block, rate in enumerate(rates)
        )
        dim, size = config.dim(stage), config.map_size(stage)
        self.downsample = PatchMerging(dim, size, config.norm_eps) if stage < 3 else None
        if sparse:
            self.score_predictor = nn.ModuleList(GumbelSplit(dim) for _ in self.prune_at)

    def forward(self, tokens: Tokens) -> Tokens:
        for index, block in enumerate(self.blocks):
            if index in self.prune_at:
                tokens = self.score_predictor[self.prune_at.index(index)](tokens)
            tokens = tokens._replace(x=block(tokens.x, tokens.route))
        return tokens


class DynamicSwin(SparseModel):
    """Swin with a sparsifier before each block of ``config.prune_at`` in its third stage.

    images (B, C, H, W) -> `Output`: logits (B, classes) or, for the task "features", every
    stage's map (B, C, H, W), normalised; the history of decisions; and where a classifier is
    trained the last map, normalised (B, N/4, C), which distillation compares.
    """

    sparsifiers = f"layers.{SPARSE_STAGE}.score_predictor"
    selection = Selection(nested=False)

    def __init__(self, config: SwinConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config)
        if config.absolute_positions:
            shape = (1, math.prod(config.map_size(0)), config.embed_dim)
            self.register_parameter(POSITIONS, nn.Parameter(torch.zeros(shape)))
        rates = drop_path_rates(drop_path, sum(config.depths))
        starts = [sum(config.depths[:stage]) for stage in range(5)]
        self.layers = nn.ModuleList(
            Stage(config, stage, rates[starts[stage] : starts[stage + 1]]) for stage in range(4)
        )
        if config.task == FEATURES.name:
            self.norms = StageNorms([config.dim(stage) for stage in range(4)], config.norm_eps)
        else:
            self.norm = nn.LayerNorm(config.dim(3), eps=config.norm_eps)
            self.head = nn.Linear(config.dim(3), config.num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        x, maps = self.patch_embed(images), []
        if self.config.absolute_positions:
            x = x + self.absolute_pos_embed
        tokens = Tokens(x)
        for stage, layer in enumerate(self.layers):
            assert isinstance(layer, Stage)
            tokens = layer(tokens)
            maps.append(tokens.x.unflatten(1, self.config.map_size(stage)))
            if layer.downsample is not None:
                tokens = tokens._replace(x=layer.downsample(tokens.x), route=None)
        if self.config.task == FEATURES.name:
            return Output(self.norms(maps), tokens)
        x = self.norm(tokens.x)
        logits = self.head(x.mean(dim=1))
        return Output({"logits": logits}, tokens, features=x if self.training else None)


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DynamicSwin's."""
    return "layers.0.blocks.0.attn.relative_position_bias_table" in shapes


def read_config(shapes: Shapes, hints: Hints) -> SwinConfig:
    """The configuration these tensors describe."""
    embed_dim, in_chans, patch_size, _ = shape_of(shapes, "patch_embed.proj.weight", 4)
    depths = tuple(count_modules(shapes, f"layers.{stage}.blocks") for stage in range(4))
    tables = [
        shape_of(shapes, f"layers.{s}.blocks.0.attn.relative_position_bias_table", 2)
        for s in range(4)
    ]
    windows = tuple((round(rows**0.5) + 1) // 2 for rows, _ in tables)
    size = read_img_size(shapes, hints, patch_size, windows)
    predictors = f"layers.{SPARSE_STAGE}.score_predictor"
    known = [variant.prune_at for variant in VARIANTS.values() if variant.depths == depths]
    return SwinConfig(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(heads for _, heads in tables),
        prune_at=read_prune_at(shapes, predictors, depths[SPARSE_STAGE], known, hints),
        windows=windows,
        patch_size=patch_size,
        img_size=size,
        num_classes=shape_of(shapes, "head.weight", 2)[0] if "head.weight" in shapes else 0,
        task=hints.get("task") or CLASSIFY.name,
        in_chans=in_chans,
        mlp_ratio=shape_of(shapes, "layers.0.blocks.0.mlp.fc1.weight", 2)[0] / embed_dim,
        norm_eps=read_norm_eps(hints, EPS),
        activation=read_activation(hints),
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in shapes,
        patch_norm="patch_embed.norm.weight" in shapes,
        absolute_positions=POSITIONS in shapes,
        pos_grid=size.oblong_patches(patch_size) if POSITIONS in shapes else None,
    )


def fit(state: Mapping[str, Tensor], config: SwinConfig) -> dict[str, Tensor]:
    """The tensors with what depends on the image size fitted to the configuration's.

    Masks of shifted windows, absolute positions; and with the norms its task needs.
    """
    resized = fit_absolute(state, config)
    resized = {name: value for name, value in resized.items() if not name.endswith(".attn_mask")}
    if config.task == FEATURES.name:
        resized = fit_stage_norms(resized, [config.dim(stage) for stage in range(4)])
    for stage, depth in enumerate(config.depths):
        if config.shifts(stage):
            window = config.windows[stage]
            mask = shift_mask(config.map_size(stage), window, window // 2)
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
    schedule=linear_schedule,
    tasks=TASKS,
    matches=matches,
    read_config=read_config,
    read_values=read_values,
    assumptions=assumed_usual,
    fit=fit,
    published_top1={"swin-t": 80.91, "swin-s": 83.21, "swin-b": 83.43},
)
