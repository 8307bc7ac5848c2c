"""Maps of hierarchical models: made of an image's patches, made smaller after each stage.

Swin Transformer, arXiv 2103.14030, section 3.1, and ConvNeXt, arXiv 2201.03545, section 2.2. Maps
are rows, (B, N, C), line after line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.images.size import USUAL, ImageSize
from dynexport.models.layers import resize_grid
from dynexport.models.protocol import Hints, Shapes, read_size, shape_of
from dynexport.models.windows import masked_grid

POSITIONS = "absolute_pos_embed"
"""Added to the first map: (1, N, C), or (1, C, H, W) in backbones of detectors."""


class PatchEmbed(nn.Module):
    """Image (B, C, H, W) to a map of rows (B, H/p * W/p, C), normalised where there is a norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.patch_size
        self.below, self.right = (-side % size for side in config.img_size)
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, kernel_size=size, stride=size)
        self.norm = (
            nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
            if config.patch_norm
            else nn.Identity()
        )

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


class Downsample(nn.Sequential):
    """LayerNorm and a 2 x 2 convolution of stride 2, or the stem's two in the other order.

    Entry 0 and 1 hold the parameters under the public names.
    """

    def __init__(self, config: Any, stage: int) -> None:
        dim, size = config.dims[stage], 2 if stage else config.patch_size
        before = config.dims[stage - 1] if stage else config.in_chans
        norm = nn.LayerNorm(before if stage else dim, eps=config.norm_eps)
        convolution = nn.Conv2d(before, dim, kernel_size=size, stride=size)
        super().__init__(*((norm, convolution) if stage else (convolution, norm)))
        self.size = config.map_size(stage - 1) if stage else None

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) in the stem, else rows (B, N, C) -> rows (B, N/4, C')."""
        if self.size is None:
            return self[1](to_rows(self[0](x)))
        # over two axes, as a sum and a norm of (B, N, C) are joined in ONNX Runtime, and slower so
        return to_rows(self[1](to_map(self[0](x.flatten(0, 1)), self.size)))


def to_map(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H * W, C) or (B * H * W, C) -> (B, C, H, W), the size being (H, W)."""
    return rows.reshape(-1, *size, rows.shape[-1]).permute(0, 3, 1, 2)


def to_rows(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def read_img_size(
    shapes: Shapes, hints: Hints, patch_size: int, windows: tuple[int, ...]
) -> ImageSize:
    """The image size: what was said of it, where absolute positions or masks agree.

    ``windows`` are positions a side, by stage. Backbones of detectors store no masks, and resize
    their positions to each image; then, unless said, those tell, or it is 224.
    """
    said, positions = hints.get("img_size"), shapes.get(POSITIONS, ())
    if len(positions) == 4:
        return said or ImageSize(positions[2] * patch_size, positions[3] * patch_size)
    if positions:
        return read_size(shape_of(shapes, POSITIONS, 3)[1], patch_size, hints, POSITIONS)
    if "masked" not in hints:
        return said or USUAL
    stage, counts = hints["masked"]
    pixels = windows[stage] * patch_size * 2**stage
    if counts == tuple(-(-side // pixels) for side in said or USUAL):
        return said or USUAL
    return ImageSize(*(count * pixels for count in counts))


def read_values(state: Mapping[str, Tensor]) -> Hints:
    """``masked``: the first stage with shifted windows, and how many lie (down, across)."""
    for stage in range(4):
        name = f"layers.{stage}.blocks.1.attn_mask"
        if name not in state:
            continue
        counts = masked_grid(state[name])
        if counts is None:
            raise ModelError(
                f"tensor {name!r} of shape {list(state[name].shape)} is no mask of shifted "
                "windows: leave it out, and say the size of the images with `img_size`"
            )
        return {"masked": (stage, counts)}
    return {}


def fit_absolute(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The tensors with absolute positions as rows, interpolated to the first stage's map."""
    if not config.absolute_positions:
        return dict(state)
    positions = state[POSITIONS]
    trained_on = config.pos_grid or (math.isqrt(positions.shape[1]),) * 2
    if positions.ndim == 4:
        trained_on = tuple(positions.shape[2:])
        positions = positions.flatten(2).transpose(1, 2)
    return {**state, POSITIONS: resize_grid(positions, trained_on, config.map_size(0))}
