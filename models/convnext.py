"""DynamicConvNeXt: ConvNeXt (arXiv 2201.03545) whose third stage has two paths.

Sparsification: arXiv 2207.01580, section 3.4. Parameter names and shapes are the public code's,
so its checkpoints load strictly. Between convolutions maps are rows, (B, N, C), line after line:
with four axes OpenVINO would add and normalise them channel by channel, and reorder each time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.images.size import USUAL, ImageSize
from dynexport.models.activations import make_activation, require_numerics
from dynexport.models.assumptions import assumed_usual, read_activation, read_norm_eps
from dynexport.models.dualpath import (
    SPARSE_STAGE,
    GumbelSplit,
    MapsConfig,
    PointwiseConv,
    through_two_paths,
)
from dynexport.models.features import TASKS, StageNorms, fit_stage_norms, require_task
from dynexport.models.layers import (
    DropPath,
    drop_path_rates,
    initialise,
    scaled_linear,
    share_norm,
)
from dynexport.models.patches import Downsample, to_map, to_rows
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
from dynexport.schedule import Selection, linear_schedule
from dynexport.tasks.classify import CLASSIFY
from dynexport.tasks.features import FEATURES

EPS = 1e-6
"""Of every LayerNorm, unless it is told; of the predictors' in any case."""

NORM_EPS = ("norm_eps",)
"""What it is recorded as: a config.json's ``layer_norm_eps`` is the last norm's alone."""

LAYER_SCALE = 1e-6
"""What the layer scales start from."""


@dataclass(frozen=True)
class ConvNeXtConfig(MapsConfig):
    """Everything that shapes a DynamicConvNeXt. ``prune_at`` counts blocks of the third stage.

    layer_scale           whether a learned factor a channel scales each branch
    norm_eps, activation  of LayerNorms and MLPs; see `dynexport.models.activations`
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    prune_at: tuple[int, ...]
    img_size: ImageSize = USUAL
    num_classes: int = 1000
    task: str = CLASSIFY.name
    in_chans: int = 3
    patch_size: int = 4
    kernel: int = 7
    norm_eps: float = EPS
    activation: str = "gelu"
    layer_scale: bool = True

    def __post_init__(self) -> None:
        for name in ("dims", "depths", "prune_at"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.dims) != 4 or len(self.depths) != 4 or min(*self.dims, *self.depths) < 1:
            raise ModelError(
                f"a ConvNeXt has four stages: found widths {list(self.dims)} and depths "
                f"{list(self.depths)}"
            )
        object.__setattr__(self, "img_size", ImageSize.of(self.img_size))
        if any(side % (8 * self.patch_size) for side in self.img_size):
            raise ModelError(
                f"image size {self.img_size} is no multiple of {8 * self.patch_size}: ConvNeXt "
                "halves its map three times"
            )
        require_task(self.task, self.num_classes)
        require_numerics(self)
        require_blocks(self.prune_at, self.depths[SPARSE_STAGE])

    def map_size(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage's map, positions."""
        return self.img_size.patches(self.patch_size * 2**stage)


class SplitPredictor(GumbelSplit):
    """The shared sparsifier with the public ConvNeXt's parameter shapes."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, PointwiseConv, EPS)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then norm and MLP or, after the first split, one of two paths."""

    def __init__(self, config: ConvNeXtConfig, stage: int, two_paths: bool, rate: float) -> None:
        super().__init__()
        dim, self.size = config.dims[stage], config.map_size(stage)
        self.dwconv = nn.Conv2d(dim, dim, config.kernel, padding=config.kernel // 2, groups=dim)
        self.norm: nn.Module = nn.LayerNorm(dim, eps=config.norm_eps)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = make_activation(config.activation)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = layer_scale(config, dim)
        self.drop_path = DropPath(rate)
        self.shared_norm: nn.Module = nn.Identity()
        self.fast_path: nn.Sequential | None = None
        self.fast_path_gamma: Tensor | None = None
        if two_paths:
            norm = nn.LayerNorm(dim, eps=config.norm_eps)
            self.fast_path = nn.Sequential(norm, nn.Linear(dim, dim))
            self.fast_path_gamma = layer_scale(config, dim)

    def forward(self, x: Tensor, route: Route | None = None) -> Tensor:
        """A map as rows (B, N, C) -> (B, N, C)."""
        rows = to_rows(self.dwconv(to_map(x, self.size)))
        if self.fast_path is None:
            return x + self.drop_path(self.slow(rows))
        rows = through_two_paths(self.shared_norm(rows), route, self.slow, self.fast)
        return x + self.drop_path(rows)

    def slow(self, x: Tensor) -> Tensor:
        """Norm and MLP, scaled: (..., C) -> (..., C)."""
        branch = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        return branch if self.gamma is None else self.gamma * branch

    def fast(self, x: Tensor) -> Tensor:
        """LayerNorm and Linear, scaled: (..., C) -> (..., C)."""
        assert self.fast_path is not None
        branch: Tensor = self.fast_path(x)
        return branch if self.fast_path_gamma is None else self.fast_path_gamma * branch

    def inference_form(self) -> ConvNeXtBlock:
        """The same block with layer scales folded, and the two paths normalised once.

        What differs between their norms is folded into the Linear after each.
        """
        if self.gamma is not None:
            self.pwconv2 = scaled_linear(self.pwconv2, self.gamma)
            self.gamma = None
        if self.fast_path is not None:
            norm, linear = self.fast_path
            assert isinstance(linear, nn.Linear)
            if self.fast_path_gamma is not None:
                linear = scaled_linear(linear, self.fast_path_gamma)
                self.fast_path_gamma = None
            shared, linears = share_norm((self.norm, self.pwconv1), (norm, linear))
            self.shared_norm, self.norm = shared, nn.Identity()
            self.pwconv1, self.fast_path = linears[0], nn.Sequential(linears[1])
        return self


def layer_scale(config: ConvNeXtConfig, dim: int) -> Tensor | None:
    """A new layer scale (C,), where the configuration has them."""
    return nn.Parameter(torch.full((dim,), LAYER_SCALE)) if config.layer_scale else None


class DynamicConvNeXt(SparseModel):
    """ConvNeXt with a sparsifier before each block of ``config.prune_at`` in its third stage.

    images (B, C, H, W) -> `Output`: logits (B, classes) or, for the task "features", every
    stage's map (B, C, H, W), normalised; the history of decisions; and where a classifier is
    trained the last map, normalised (B, N/4, C), which distillation compares.
    """

    sparsifiers = "score_predictor"
    selection = Selection(nested=False)

    def __init__(self, config: ConvNeXtConfig, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.downsample_layers = nn.ModuleList(Downsample(config, stage) for stage in range(4))
        rates = iter(drop_path_rates(drop_path, sum(config.depths)))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ConvNeXtBlock(
                    config, stage, stage == SPARSE_STAGE and block >= config.prune_at[0], rate
                )
                for block, rate in zip(range(config.depths[stage]), rates, strict=False)
            )
            for stage in range(4)
        )
        if config.task == FEATURES.name:
            self.norms = StageNorms(config.dims, config.norm_eps)
        else:
            self.norm = nn.LayerNorm(config.dims[3], eps=config.norm_eps)
            self.head = nn.Linear(config.dims[3], config.num_classes)
        self.score_predictor = nn.ModuleList(
            SplitPredictor(config.dims[SPARSE_STAGE]) for _ in config.prune_at
        )
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        x, tokens, maps = images, Tokens(images), []
        stage_at = {block: place for place, block in enumerate(self.config.prune_at)}
        for stage, downsample in enumerate(self.downsample_layers):
            x = downsample(x)
            for index, block in enumerate(self.stages[stage].children()):
                if stage == SPARSE_STAGE and index in stage_at:
                    tokens = self.score_predictor[stage_at[index]](tokens._replace(x=x))
                x = block(x, tokens.route)
            maps.append(x.unflatten(1, self.config.map_size(stage)))
        if self.config.task == FEATURES.name:
            return Output(self.norms(maps), tokens)
        logits = self.head(self.norm(x.mean(dim=1)))
        features = self.norm(x) if self.training else None
        return Output({"logits": logits}, tokens, features)


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DynamicConvNeXt's."""
    return "stages.0.0.dwconv.weight" in shapes and "downsample_layers.0.0.weight" in shapes


def read_config(shapes: Shapes, hints: Hints) -> ConvNeXtConfig:
    """The configuration these tensors describe.

    No tensor tells the image size: without a hint it is 224.
    """
    depths = tuple(count_modules(shapes, f"stages.{stage}") for stage in range(4))
    stem = shape_of(shapes, "downsample_layers.0.0.weight", 4)
    kernels = [shape_of(shapes, f"stages.{stage}.0.dwconv.weight", 4) for stage in range(4)]
    known = [variant.prune_at for variant in VARIANTS.values() if variant.depths == depths]
    return ConvNeXtConfig(
        dims=tuple(kernel[0] for kernel in kernels),
        depths=depths,
        prune_at=read_prune_at(shapes, "score_predictor", depths[SPARSE_STAGE], known, hints),
        img_size=hints.get("img_size") or USUAL,
        num_classes=shape_of(shapes, "head.weight", 2)[0] if "head.weight" in shapes else 0,
        task=hints.get("task") or CLASSIFY.name,
        in_chans=stem[1],
        patch_size=stem[2],
        kernel=kernels[0][2],
        norm_eps=read_norm_eps(hints, EPS, NORM_EPS),
        activation=read_activation(hints),
        layer_scale="stages.0.0.gamma" in shapes,
    )


def fit(state: Mapping[str, Tensor], config: ConvNeXtConfig) -> Mapping[str, Tensor]:
    """The tensors with the norms the configuration's task needs."""
    return fit_stage_norms(state, config.dims) if config.task == FEATURES.name else state


VARIANTS = {
    "convnext-t": ConvNeXtConfig((96, 192, 384, 768), (3, 3, 9, 3), (1, 2, 3)),
    "convnext-s": ConvNeXtConfig((96, 192, 384, 768), (3, 3, 27, 3), (3, 6, 9)),
    "convnext-b": ConvNeXtConfig((128, 256, 512, 1024), (3, 3, 27, 3), (3, 6, 9)),
}

FAMILY = Family(
    name="convnext",
    model=DynamicConvNeXt,
    config=ConvNeXtConfig,
    variants=VARIANTS,
    schedule=linear_schedule,
    fit=fit,
    tasks=TASKS,
    matches=matches,
    read_config=read_config,
    assumptions=functools.partial(assumed_usual, eps_names=NORM_EPS),
    published_top1={"convnext-t": 81.59, "convnext-s": 82.57, "convnext-b": 83.45},
)
