"""Token-pruning models as others write them, and the ONNX files both exporters make of them.

Each says its pruning in the words of its field: a full argsort cut to its front, offsets added for
a flattened gather, a log-softmax that is only ranked by, rows moved by an expanded index, two
halves written into zeros.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from made.tiny import trained_like

SIZE, DIM, HEADS, CLASSES = 28, 32, 2, 10


class Attention(nn.Module):
    """Queries, keys and values of one Linear; gives what the class token attends to as well."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = ((q @ k.transpose(-2, -1)) * (c // HEADS) ** -0.5).softmax(dim=-1)
        mixed = (attention @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj(mixed), attention[:, :, 0, 1:].mean(dim=1)


class SpelledNorm(nn.Module):
    """LayerNorm written out, as some repositories do."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * self.weight + self.bias


def mlp(dim: int, hidden: int, approximate: str = "none") -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.GELU(approximate=approximate), nn.Linear(hidden, dim)
    )


class Block(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm, gelu: str = "none"):
        super().__init__()
        self.norm1, self.norm2 = norm(DIM), norm(DIM)
        self.attn, self.mlp = Attention(), mlp(DIM, 2 * DIM, gelu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mixed, attended = self.attn(self.norm1(x))
        x = x + mixed
        return x + self.mlp(self.norm2(x)), attended


class Embedding(nn.Module):
    """Images (B, 3, 28, 28) to a class token and 49 others, (B, 50, DIM)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 50, DIM))

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        return torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed


def flat_rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, N, C) or (B, N), index (B, K): rows of a flattened batch, by offsets."""
    b, n = x.shape[:2]
    flat = (index + torch.arange(b, device=x.device).view(b, 1) * n).reshape(-1)
    return x.reshape(b * n, *x.shape[2:])[flat].reshape(b, index.shape[1], *x.shape[2:])


class Predictor(nn.Module):
    """Two log-probabilities a token, (B, N, 2), of itself and of the mean of those left."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.GELU())
        self.outer = nn.Sequential(
            nn.Linear(DIM, DIM // 2),
            nn.GELU(),
            nn.Linear(DIM // 2, 2),
            nn.LogSoftmax(dim=-1),
        )

    def forward(self, x: Tensor, policy: Tensor) -> Tensor:
        x = self.inner(x)
        b, n, c = x.shape
        own = x[:, :, : c // 2]
        mean = (x[:, :, c // 2 :] * policy).sum(1, keepdim=True) / policy.sum(1, keepdim=True)
        scores: Tensor = self.outer(torch.cat([own, mean.expand(b, n, c // 2)], dim=-1))
        return scores


class ForeignDynamicViT(nn.Module):
    """Ranks with a predictor, sorts all, keeps the front, gathers on the flattened batch."""

    def __init__(self, spelled: bool = False) -> None:
        super().__init__()
        norm, gelu = (SpelledNorm, "tanh") if spelled else (nn.LayerNorm, "none")
        self.patch_embed = Embedding()
        self.blocks = nn.ModuleList(Block(norm, gelu) for _ in range(3))
        self.predictors = nn.ModuleList(Predictor() for _ in range(2))
        self.norm, self.head = norm(DIM), nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        b, tokens = x.shape[0], x.shape[1] - 1
        policy = torch.ones(b, tokens, 1, dtype=x.dtype, device=x.device)
        for stage, block in enumerate(self.blocks):
            if stage:
                score = self.predictors[stage - 1](x[:, 1:], policy)[:, :, 0]
                count = int(tokens * 0.7**stage)
                kept = torch.argsort(score, dim=1, descending=True)[:, :count]
                first = torch.zeros(b, 1, dtype=kept.dtype, device=kept.device)
                x = flat_rows(x, torch.cat([first, kept + 1], dim=1))
                policy = flat_rows(policy, kept)
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def the_others(index: Tensor, n: int) -> Tensor:
    """Positions that are not in index (B, K): marked, then sorted to the front."""
    every = torch.arange(n, device=index.device).expand(index.shape[0], n)
    marked = torch.scatter(every, 1, index, -1)
    return torch.sort(marked, dim=1, descending=True)[0][:, : n - index.shape[1]]


class ForeignEViT(nn.Module):
    """Keeps what the class token attends to, by an expanded index, and fuses the others."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = Embedding()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        for place, block in enumerate(self.blocks):
            x, attended = block(x)
            if place < 2:
                x = self.drop(x, attended)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits

    def drop(self, x: Tensor, attended: Tensor) -> Tensor:
        first, rest = x[:, :1], x[:, 1:]
        n, c = rest.shape[1:]
        _, kept = torch.topk(attended, int(0.7 * n), dim=1, largest=True, sorted=True)
        others = the_others(kept, n)
        inattentive = torch.gather(rest, 1, others.unsqueeze(-1).expand(-1, -1, c))
        weight = torch.gather(attended, 1, others)
        fused = torch.sum(inattentive * weight.unsqueeze(-1), dim=1, keepdim=True)
        chosen = torch.gather(rest, 1, kept.unsqueeze(-1).expand(-1, -1, c))
        return torch.cat([first, chosen, fused], dim=1)


class ForeignDualPath(nn.Module):
    """Sends the best tokens one way and the rest another, and writes both halves into zeros."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        self.proj = nn.Conv2d(3, DIM, 4, 4)
        self.scores = nn.ModuleList(nn.Linear(DIM, 2) for _ in range(2))
        self.slow = nn.ModuleList(mlp(DIM, 4 * DIM) for _ in range(2))
        self.fast = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, DIM)) for _ in range(2)
        )
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        for rank, slow, fast in zip(self.scores, self.slow, self.fast, strict=True):
            score = F.log_softmax(rank(x), dim=-1)[..., 0]
            order = torch.argsort(score, dim=1, descending=True)
            one, two = order[:, :24], order[:, 24:]
            x = self.fill(x, one, slow(flat_rows(x, one)), two, fast(flat_rows(x, two)))
        logits: Tensor = self.head(x.mean(1))
        return logits

    def fill(self, x: Tensor, one: Tensor, a: Tensor, two: Tensor, b: Tensor) -> Tensor:
        n, tokens, c = x.shape
        if self.flat:
            offset = torch.arange(n, device=x.device).view(n, 1) * tokens
            out = torch.zeros_like(x).reshape(n * tokens, c)
            out[(one + offset).reshape(-1)] = a.reshape(-1, c)
            out[(two + offset).reshape(-1)] = b.reshape(-1, c)
            return out.reshape(n, tokens, c)
        out = torch.zeros_like(x).scatter(1, one.unsqueeze(-1).expand(-1, -1, c), a)
        return out.scatter(1, two.unsqueeze(-1).expand(-1, -1, c), b)


FOREIGN: Mapping[str, Callable[[], nn.Module]] = {
    "dynamicvit": ForeignDynamicViT,
    "dynamicvit-spelled": lambda: ForeignDynamicViT(spelled=True),
    "evit": ForeignEViT,
    "dualpath": ForeignDualPath,
    "dualpath-flat": lambda: ForeignDualPath(flat=True),
}

EXPORTERS = ("torchscript", "dynamo")


def export_foreign(
    path: Path, name: str, exporter: str, opset: int, batch: int | None, seed: int = 0
) -> Path:
    """Write the ONNX file an exporter makes of a model; ``batch`` of None leaves it open."""
    model = FOREIGN[name]().eval()
    trained_like(model, seed)
    images = torch.zeros(batch or 2, 3, SIZE, SIZE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            torch.onnx.export(
                model,
                (images,),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes=None if batch else {"input": {0: "batch"}, "output": {0: "batch"}},
            )
        else:
            torch.onnx.export(
                model,
                (images,),
                str(path),
                dynamo=True,
                opset_version=opset,
                input_names=["input"],
                output_names=["output"],
                external_data=False,
                verbose=False,
                dynamic_shapes=None if batch else ({0: torch.export.Dim("batch")},),
            )
    return path


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator stands in a graph."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts
