"""The baseline: each family as one would write it for evaluation, exported as it is.

Scores through LogSoftmax on both halves put side by side, a full argsort, flat indices by
arithmetic, a scatter of two halves; q, k and v in one product; windows by roll and partition, the
bias table looked up at run time, layer scales multiplied, residuals halved. The weights are those
of a training form, so that its answers are dynexport's. With no counts nothing is dropped and
nothing is scored: the plain backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from random_weights import random_model
from torch import Tensor, nn

from dynexport.models import find_variant
from dynexport.models.dualpath import SPARSE_STAGE
from dynexport.models.lvvit import AUXILIARY


def rank(predictor: Any, x: Tensor, keep_count: int) -> tuple[Tensor, Tensor]:
    """Rows of the slow path (B, K) and of the fast one (B, N - K)."""
    scores = predictor.log_probabilities(x, torch.ones_like(x[..., 0]))[..., 0]
    order = torch.argsort(scores, dim=1, descending=True)
    return order[:, :keep_count], order[:, keep_count:]


def flat_rows(rows: Tensor, total: int) -> Tensor:
    """Rows of each item (B, K) as rows of the whole batch (B * K,)."""
    offset = torch.arange(rows.shape[0], device=rows.device).view(-1, 1) * total
    return (rows + offset).reshape(-1)


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x (B, N, C), rows (B, K) -> (B, K, C)."""
    batch, total, dim = x.shape
    return x.reshape(batch * total, dim)[flat_rows(rows, total)].reshape(batch, -1, dim)


def fill_rows(like: Tensor, halves: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Rows and their values, two halves of a map (B, N, C), scattered into a new one."""
    batch, total, dim = like.shape
    filled = torch.zeros(batch * total, dim, dtype=like.dtype, device=like.device)
    for rows, values in halves:
        filled[flat_rows(rows, total)] = values.reshape(-1, dim)
    return filled.reshape(batch, total, dim)


def two_paths(x: Tensor, split: tuple[Tensor, Tensor] | None, slow: Any, fast: Any) -> Tensor:
    """Each half of the rows of x (B, N, C) through its path."""
    if split is None:
        return slow(x)
    first, rest = split
    slow_rows, fast_rows = slow(select_rows(x, first)), fast(select_rows(x, rest))
    return fill_rows(x, [(first, slow_rows), (rest, fast_rows)])


class PlainDeiT(nn.Module):
    """A DynamicDeiT's evaluation: its own blocks, packed attention, on the rows that are left."""

    def __init__(self, trained: Any, counts: Sequence[int]) -> None:
        super().__init__()
        self.trained, self.counts = trained, counts

    def forward(self, images: Tensor) -> Tensor:
        x = self.run_blocks(images)
        return self.trained.head(x[:, 0])

    def run_blocks(self, images: Tensor) -> Tensor:
        model = self.trained
        patches = model.patch_embed(images)
        class_token = model.cls_token.expand(patches.shape[0], -1, -1)
        x = torch.cat([class_token, patches], dim=1) + model.pos_embed
        for index, block in enumerate(model.blocks):
            if self.counts and index in model.config.prune_at:
                place = model.config.prune_at.index(index)
                x = self.drop_rows(model.score_predictor[place], x, self.counts[place])
            x = block(x, None)
        return model.norm(x)

    @staticmethod
    def drop_rows(predictor: Any, x: Tensor, keep_count: int) -> Tensor:
        """The class token and the best patches of x (B, 1 + N, C) -> (B, 1 + K, C)."""
        kept, _ = rank(predictor, x[:, 1:], keep_count)
        return select_rows(x, torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], dim=1))


class PlainLVViT(PlainDeiT):
    """A DynamicLVViT's evaluation: the same, and the auxiliary head's best patch."""

    def forward(self, images: Tensor) -> Tensor:
        model, x = self.trained, self.run_blocks(images)
        return model.head(x[:, 0]) + AUXILIARY * model.aux_head(x[:, 1:]).max(dim=1).values


class PlainConvNeXt(nn.Module):
    """A DynamicConvNeXt's evaluation: maps channels first between blocks, as it was trained."""

    def __init__(self, trained: Any, counts: Sequence[int]) -> None:
        super().__init__()
        self.trained, self.counts = trained, counts

    def forward(self, images: Tensor) -> Tensor:
        model, x, split = self.trained, images, None
        for stage in range(4):
            first, second = model.downsample_layers[stage]
            x = (
                self.normalise_channels(second, first(x))
                if stage == 0
                else second(self.normalise_channels(first, x))
            )
            for index, block in enumerate(model.stages[stage]):
                if self.counts and stage == SPARSE_STAGE and index in model.config.prune_at:
                    place = model.config.prune_at.index(index)
                    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
                    split = rank(model.score_predictor[place], rows, self.counts[place])
                x = self.run_block(block, x, split if stage == SPARSE_STAGE else None)
        return model.head(model.norm(x.mean([-2, -1])))

    @staticmethod
    def normalise_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """LayerNorm over the channels of (B, C, H, W), step by step."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + norm.eps)
        return norm.weight[:, None, None] * x + norm.bias[:, None, None]

    @staticmethod
    def run_block(block: Any, x: Tensor, split: tuple[Tensor, Tensor] | None) -> Tensor:
        rows = block.dwconv(x).permute(0, 2, 3, 1)
        batch, height, width, dim = rows.shape
        rows = two_paths(rows.reshape(batch, height * width, dim), split, block.slow, block.fast)
        return x + rows.reshape(batch, height, width, dim).permute(0, 3, 1, 2)


class PlainSwin(nn.Module):
    """A DynamicSwin's evaluation: windows cut from a rolled map."""

    def __init__(self, trained: Any, counts: Sequence[int]) -> None:
        super().__init__()
        self.trained, self.counts = trained, counts

    def forward(self, images: Tensor) -> Tensor:
        model = self.trained
        x = model.patch_embed(images)
        for stage, layer in enumerate(model.layers):
            split = None
            for index, block in enumerate(layer.blocks):
                if self.counts and index in layer.prune_at:
                    place = layer.prune_at.index(index)
                    split = rank(layer.score_predictor[place], x, self.counts[place])
                x = self.run_block(block, x, split)
            if layer.downsample is not None:
                x = self.merge(layer.downsample, x, model.config.map_size(stage))
        return model.head(model.norm(x).transpose(1, 2).mean(dim=2))

    @staticmethod
    def merge(merging: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x.view(x.shape[0], *size, x.shape[2])
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return merging.reduction(merging.norm(torch.cat(corners, dim=-1).flatten(1, 2)))

    def run_block(self, block: Any, x: Tensor, split: tuple[Tensor, Tensor] | None) -> Tensor:
        (side, _), window, shift = block.attn.size, block.attn.window, block.attn.shift
        batch, total, dim = x.shape
        maps = block.norm1(x).view(batch, side, side, dim)
        if shift:
            maps = torch.roll(maps, shifts=(-shift, -shift), dims=(1, 2))
        count = side // window
        windows = maps.view(batch, count, window, count, window, dim).permute(0, 1, 3, 2, 4, 5)
        mixed = self.attend(block, windows.reshape(-1, window * window, dim))
        mixed = mixed.view(batch, count, count, window, window, dim).permute(0, 1, 3, 2, 4, 5)
        maps = mixed.reshape(batch, side, side, dim)
        if shift:
            maps = torch.roll(maps, shifts=(shift, shift), dims=(1, 2))
        x = x + maps.view(batch, total, dim)
        return x + two_paths(x, split, lambda rows: block.mlp(block.norm2(rows)), block.fastmlp)

    @staticmethod
    def attend(block: Any, windows: Tensor) -> Tensor:
        """Attention inside windows (B * n, w * w, C), masked where the roll joined far rows."""
        attention, mask = block.attn, block.attn_mask
        total, length, dim = windows.shape
        heads = attention.num_heads
        qkv = attention.qkv(windows).reshape(total, length, 3, heads, dim // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q * (dim // heads) ** -0.5) @ k.transpose(-2, -1)
        table = attention.relative_position_bias_table
        bias = table[attention.relative_position_index.view(-1)].view(length, length, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            scores = scores.view(total // count, count, heads, length, length)
            scores = (scores + mask.unsqueeze(1).unsqueeze(0)).view(-1, heads, length, length)
        mixed = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(total, length, dim)
        return attention.proj(mixed)


PLAIN: dict[str, Any] = {
    "deit": PlainDeiT,
    "lvvit": PlainLVViT,
    "swin": PlainSwin,
    "convnext": PlainConvNeXt,
}


def plain_model(name: str, counts: Sequence[int]) -> nn.Module:
    """A published variant with the weights of `random_model`; no counts: dense."""
    family, _ = find_variant(name)
    model: nn.Module = PLAIN[family.name](random_model(name), counts)
    return model.eval()


def export_plain(plain: nn.Module, batch: int, target: Path) -> None:
    """Write a plain model's ONNX file, by PyTorch's exporter as it comes."""
    size = plain.trained.config.img_size  # type: ignore[union-attr]
    images = torch.zeros(batch, 3, *size)
    with torch.no_grad():
        program = torch.onnx.export(
            plain,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    program.save(str(target))
