"""DynamicSwin: Swin Transformer (arXiv 2103.14030) whose third stage has two paths.

Sparsification: arXiv 2207.01580, section 3.4. Parameter and buffer names are the public code's,
so its checkpoints load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.images.size import USUAL, ImageSize
from dynexport.models.activations import require_numerics
from dynexport.models.assumptions import assumed_usual, read_activation, read_norm_eps
from dynexport.models.dualpath import SPARSE_STAGE, GumbelSplit, through_two_paths
from dynexport.models.features import TASKS, StageNorms, fit_stage_norms, require_task
from dynexport.models.layers import DropPath, Mlp, drop_path_rates, initialise, share_norm
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
from dynexport.models.sparsifiers import Route, Tokens
from dynexport.models.windows import LeanWindowAttention, WindowAttention, masked_grid, shift_mask
from dynexport.schedule import Selection, linear_schedule
from dynexport.tasks.classify import CLASSIFY
from dynexport.tasks.features import FEATURES

EPS = 1e-5
"""Of every LayerNorm, unless it is told."""


@dataclass(frozen=True)
class SwinConfig:
    """Everything that shapes a DynamicSwin. ``prune_at`` counts blocks of the third stage.

    windows: side of the attention windows, per stage. Maps they do not fill are padded with
    zeros below and to the right, as detection backbones do; so any image size goes.
    norm_eps, activation: of LayerNorms and MLPs; see `dynexport.models.activations`
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

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the third stage's map, all of which every sparsifier ranks."""
        return self.map_size(SPARSE_STAGE)

    @property
    def num_tokens(self) -> int:
        """Positions of the third stage's map."""
        return math.prod(self.grid)


class PatchEmbed(nn.Module):
    """Image (B, 3, H, W) to a map of rows (B, H/p * W/p, C), normalised."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.below, self.right = (-side % size for side in config.img_size)
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, kernel_size=size, stride=size)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        if self.below or self.right:
            images = F.pad(images, (0, self.right, 0, self.below))
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class PatchMerging(nn.Module):
    """Four neighbours to one position of twice the width: (B, H*W, C) -> (B, H*W/4, 2C)."""

    def __init__(self, dim: int, size: tuple[int, int], eps: float) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.LayerNorm(4 * dim, eps=eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (height, width), dim = self.size, x.shape[-1]
        x = x.reshape(-1, height, width, dim)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        down, across = (height + 1) // 2, (width + 1) // 2
        x = x.reshape(-1, down, 2, across, 2, dim)
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(-1, down * across, 4 * dim)
        return self.reduction(self.norm(x))


class FastMlp(nn.Module):
    """The fast path: LayerNorm and one Linear."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.LayerNorm(dim, eps=eps), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x)


class SwinBlock(nn.Module):
    """Window attention, then the MLP or, where the third stage is split, one of two paths."""

    attn_mask: Tensor | None

    def __init__(
        self, config: SwinConfig, stage: int, shifted: bool, two_paths: bool, rate: float
    ) -> None:
        super().__init__()
        dim, size, window = config.dim(stage), config.map_size(stage), config.windows[stage]
        shift = window // 2 if shifted and config.shifts(stage) else 0
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn: nn.Module = WindowAttention(dim, size, window, shift, config.num_heads[stage])
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

    images (B, 3, H, W) -> `Output`: logits (B, classes) or, for the task "features", every
    stage's map (B, C, H, W), normalised; the history of decisions; and where a classifier is
    trained the last map, normalised (B, N/4, C), which distillation compares.
    """

    sparsifiers = f"layers.{SPARSE_STAGE}.score_predictor"
    selection = Selection(nested=False)

    def __init__(self, config: SwinConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config)
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
        tokens = Tokens(self.patch_embed(images))
        maps = []
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
    predictors = f"layers.{SPARSE_STAGE}.score_predictor"
    known = [variant.prune_at for variant in VARIANTS.values() if variant.depths == depths]
    return SwinConfig(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(heads for _, heads in tables),
        prune_at=read_prune_at(shapes, predictors, depths[SPARSE_STAGE], known, hints),
        windows=windows,
        patch_size=patch_size,
        img_size=read_img_size(hints, windows[0] * patch_size),
        num_classes=shape_of(shapes, "head.weight", 2)[0] if "head.weight" in shapes else 0,
        task=hints.get("task") or CLASSIFY.name,
        in_chans=in_chans,
        mlp_ratio=shape_of(shapes, "layers.0.blocks.0.mlp.fc1.weight", 2)[0] / embed_dim,
        norm_eps=read_norm_eps(hints, EPS),
        activation=read_activation(hints),
    )


def read_img_size(hints: Hints, window: int) -> ImageSize:
    """The image size: what was said of it, where the masks agree.

    ``window`` pixels a side of the first stage's. Backbones of detectors store no masks; then,
    unless said, 224.
    """
    said, windows = hints.get("img_size") or USUAL, hints.get("windows")
    if windows is None or windows == tuple(-(-side // window) for side in said):
        return said
    return ImageSize(*(count * window for count in windows))


def read_values(state: Mapping[str, Tensor]) -> Hints:
    """How many windows the first stage has, ``windows`` (down, across), as their masks tell."""
    mask = state.get("layers.0.blocks.1.attn_mask")
    if mask is None:
        return {}
    windows = masked_grid(mask) if mask.ndim == 3 else None
    if windows is None:
        raise ModelError(
            f"tensor 'layers.0.blocks.1.attn_mask' of shape {list(mask.shape)} is no mask of "
            "shifted windows: leave it out, and say the size of the images with `img_size`"
        )
    return {"windows": windows}


def fit(state: Mapping[str, Tensor], config: SwinConfig) -> dict[str, Tensor]:
    """The tensors with the shifted windows' masks rebuilt for the configuration's image size.

    And with the norms its task needs.
    """
    resized = {name: value for name, value in state.items() if not name.endswith(".attn_mask")}
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
