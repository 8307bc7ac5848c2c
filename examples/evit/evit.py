"""EViT (arXiv 2202.07800) as a plugin: a family of sparse models that lives outside dynexport.

    dynexport convert deit-s.pth --plugin evit.py --ratio 0.7

No predictor: in a few blocks, between attention and MLP, the tokens the class token attends to
most are kept, and the others are fused into one, weighted by that attention (section 3.2), or
dropped where the training's ``args.fuse_token`` says so. The parameters are a plain DeiT's, so its
checkpoints convert as they are, fine-tuned or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynexport.models import (
    Alternative,
    Assumption,
    Family,
    Hints,
    KeepSchedule,
    ModelError,
    Output,
    ScheduleError,
    Selection,
    Shapes,
    SparseModel,
    Tokens,
    assumed_usual,
    count_modules,
    in_dense_twin,
    pin_class_token,
    read_activation,
    read_heads,
    read_norm_eps,
    read_size,
    replayed_rows,
    shape_of,
    take_rows,
)
from dynexport.models.deit import DeiTConfig, PatchEmbed
from dynexport.models.layers import (
    MaskedAttention,
    Mlp,
    add_class_and_position,
    initialise,
    resize_positions,
)


@dataclass(frozen=True)
class EViTConfig(DeiTConfig):
    """A DeiT's configuration; ``keep_rate`` is what an EViT trains with.

    fuse_token  whether the tokens dropped are fused into one
    """

    keep_rate: float = 0.7
    fuse_token: bool = True


class Fuse(nn.Module):
    """Training: keeps the best ``keep_rate`` of the tokens, whatever their number, fuses the rest.

    tokens.x (B, 1 + N, C), class_attention (B, 1 + N) -> tokens.x (B, 1 + K + 1, C), or
    (B, 1 + K, C) where nothing is fused.
    """

    def __init__(self, config: EViTConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, tokens: Tokens, class_attention: Tensor) -> Tokens:
        count = math.ceil(self.config.keep_rate * (tokens.x.shape[1] - 1))
        rows = best_rows(class_attention, count)
        return tokens._replace(
            x=keep_and_fuse(tokens.x, class_attention, rows, self.config.fuse_token)
        )

    def top_k(self, keep_count: int, ranked: int) -> FuseMask:
        return FuseMask(self.config, keep_count)


class FuseMask(nn.Module):
    """The oracle: every token stays and is computed, dropped ones unseen; the fused one is added.

    So a token's place, class token apart, is its position: the grid's, then each fused token's.
    """

    def __init__(self, config: EViTConfig, keep_count: int) -> None:
        super().__init__()
        self.config, self.keep_count = config, keep_count
        self.replay: Tensor | None = None

    def forward(self, tokens: Tokens, class_attention: Tensor) -> Tokens:
        x, attention = tokens.x, class_attention[:, 1:]
        alive = torch.ones_like(attention) if tokens.mask is None else tokens.mask[:, 1:]
        scores = log_attention(attention).masked_fill(alive == 0, -torch.inf)
        kept = scores.topk(self.keep_count, dim=1).indices if self.replay is None else self.replay
        keep = torch.zeros_like(alive).scatter(1, kept, 1.0)
        fused = []
        if self.config.fuse_token:
            fused = [(attention * (alive - keep)).unsqueeze(1) @ x[:, 1:]]
        return tokens._replace(
            x=torch.cat([x, *fused], dim=1),
            mask=F.pad(keep, (1, len(fused)), value=1.0),
            scores=(*tokens.scores, scores),
            masks=(*tokens.masks, keep),
            kept=(*tokens.kept, kept),
        )

    def inference_form(self) -> FuseTopK:
        return FuseTopK(self.config, self.keep_count)


class FuseTopK(nn.Module):
    """Inference: the class token and the best are gathered, the rest are gone but for one.

    With ``replay`` (B, K), positions decided elsewhere take the place of its own choice.
    """

    def __init__(self, config: EViTConfig, keep_count: int) -> None:
        super().__init__()
        self.config, self.keep_count = config, keep_count
        self.replay: Tensor | None = None

    def forward(self, tokens: Tokens, class_attention: Tensor) -> Tokens:
        left = tokens.kept[-1] if tokens.kept else None
        if left is not None and self.config.fuse_token:
            left = F.pad(left, (0, 1), value=self.config.num_tokens + len(tokens.kept) - 1)
        if self.replay is None:
            rows = best_rows(class_attention, self.keep_count)
        else:
            rows = replayed_rows(self.replay, left)
        x = keep_and_fuse(tokens.x, class_attention, rows, self.config.fuse_token)
        kept = rows[:, 1:, 0] - 1
        if left is not None:
            kept = left.gather(1, kept)
        return tokens._replace(
            x=in_dense_twin(x, tokens.x),
            scores=(*tokens.scores, log_attention(class_attention[:, 1:])),
            kept=(*tokens.kept, kept),
        )


def log_attention(attention: Tensor) -> Tensor:
    """Scores for comparing, on a logarithmic scale; finite where attention has vanished."""
    return attention.clamp_min(torch.finfo(attention.dtype).tiny).log()


def best_rows(class_attention: Tensor, count: int) -> Tensor:
    """Rows of the class token, ranked along above all, and of the ``count`` it attends to most.

    class_attention (B, 1 + N) -> (B, 1 + count, 1)
    """
    return pin_class_token(class_attention.unsqueeze(-1)).topk(1 + count, dim=1).indices


def keep_and_fuse(x: Tensor, class_attention: Tensor, rows: Tensor, fuse: bool) -> Tensor:
    """x (B, 1 + N, C), class_attention (B, 1 + N), rows (B, R, 1) -> (B, R + 1, C), or (B, R, C).

    What is fused is the weighted sum of all tokens less that of the kept ones, so that nobody
    lists the dropped.
    """
    kept = take_rows(x, rows)
    if not fuse:
        return kept
    weights = class_attention.unsqueeze(-1)
    kept_weights = take_rows(weights, rows)
    fused = weights.transpose(1, 2) @ x - kept_weights.transpose(1, 2) @ kept
    return torch.cat([kept, fused], dim=1)


class EViTBlock(nn.Module):
    """Attention, the choice of tokens where there is one, MLP."""

    def __init__(self, config: EViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = MaskedAttention(dim, config.num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, config.mlp_dim, config.activation)

    def forward(self, tokens: Tokens, sparsifier: nn.Module | None) -> Tokens:
        mixed, weights = self.attn.attend(self.norm1(tokens.x), tokens.mask)
        tokens = tokens._replace(x=tokens.x + mixed)
        if sparsifier is not None:
            tokens = sparsifier(tokens, weights[:, :, 0].mean(dim=1))
        return tokens._replace(x=tokens.x + self.mlp(self.norm2(tokens.x)))


class EViT(SparseModel):
    """images (B, 3, H, W) -> `Output` with logits (B, classes)."""

    sparsifiers = "fuse"

    def __init__(self, config: EViTConfig) -> None:
        super().__init__(config)
        self.selection = Selection(nested=True, leading=1, appended=int(config.fuse_token))
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.in_chans, dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_tokens, dim))
        self.blocks = nn.ModuleList(EViTBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self.fuse = nn.ModuleList(Fuse(config) for _ in config.prune_at)
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        patches = self.patch_embed(images)
        tokens = Tokens(add_class_and_position(patches, self.cls_token, self.pos_embed))
        sparsifiers = dict(zip(self.config.prune_at, self.fuse, strict=True))
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, sparsifiers.get(index))
        return Output({"logits": self.head(self.norm(tokens.x[:, 0]))}, tokens)

    def keep_counts(self, keep: KeepSchedule) -> tuple[int, ...]:
        """``ceil(ratio * left)`` as the public code counts, the fused token among those left."""
        left, counts = self.config.num_tokens, []
        for ratio in keep.ratios:
            count = math.ceil(ratio * left)
            if self.config.fuse_token and count >= left:
                raise ScheduleError(
                    f"keep ratio {ratio:g} keeps all of {left} tokens, so none is left to fuse: "
                    "give a smaller one, or export the dense twin with `dense`"
                )
            counts.append(count)
            left = count + self.selection.appended
        return tuple(counts)


def constant_schedule(base: float, stages: int) -> KeepSchedule:
    """The same ratio at every stage, each time of the tokens that are left."""
    return KeepSchedule((base,) * stages)


def matches(shapes: Shapes) -> bool:
    """Whether these tensors are a DeiT's without predictors."""
    marks = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias")
    sparsified = any(name.startswith(("score_predictor.", "aux_head.")) for name in shapes)
    return all(name in shapes for name in marks) and not sparsified


def read_config(shapes: Shapes, hints: Hints) -> EViTConfig:
    """The configuration these tensors describe; blocks are chosen as the paper does, in quarters
    of the depth, unless the user says otherwise."""
    embed_dim, in_chans, patch_size, _ = shape_of(shapes, "patch_embed.proj.weight", 4)
    depth = count_modules(shapes, "blocks")
    for token in ("dist_token", "reg_token", "register_tokens"):
        if token in shapes:
            raise ModelError(f"an EViT has a class token alone, and the tensors have {token!r}")
    if shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)[0] != 4 * embed_dim:
        raise ModelError("the MLP is not four times as wide as the model: this is no DeiT")
    size = read_size(shape_of(shapes, "pos_embed", 3)[1] - 1, patch_size, hints)
    quarters: Any = (depth // 4, depth // 2, 3 * depth // 4)
    return EViTConfig(
        embed_dim=embed_dim,
        num_heads=read_heads(embed_dim, hints),
        depth=depth,
        prune_at=hints.get("prune_at") or quarters,
        patch_size=patch_size,
        img_size=size,
        pos_grid=size.oblong_patches(patch_size),
        num_classes=shape_of(shapes, "head.weight", 2)[0],
        in_chans=in_chans,
        fuse_token=_fuse_token(hints) is not False,
        norm_eps=read_norm_eps(hints, 1e-6),
        activation=read_activation(hints),
    )


def _fuse_token(hints: Hints) -> bool | None:
    """What was recorded, or said, of fusing."""
    told = hints.get("fuse_token")
    return told if isinstance(told, bool) else None


def assumptions(config: EViTConfig, hints: Hints) -> Iterator[Assumption]:
    """What no tensor tells."""
    yield from assumed_usual(config, hints)
    if _fuse_token(hints) is None:
        yield Assumption("dropped tokens fused into one", "args", "fuse_token=false")


def alternatives(config: EViTConfig) -> Iterator[Alternative]:
    """What else it may be."""
    other = not config.fuse_token
    yield Alternative(f"`args` fuse_token={str(other).lower()}", {"fuse_token": other})


FAMILY = Family(
    name="evit",
    model=EViT,
    config=EViTConfig,
    variants={
        "evit-t": EViTConfig(embed_dim=192, num_heads=3),
        "evit-s": EViTConfig(embed_dim=384, num_heads=6),
        "evit-b": EViTConfig(embed_dim=768, num_heads=12),
    },
    schedule=constant_schedule,
    matches=matches,
    read_config=read_config,
    assumptions=assumptions,
    alternatives=alternatives,
    fit=resize_positions,
)
