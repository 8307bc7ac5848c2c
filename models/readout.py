"""What a vision transformer's head reads of the tokens that are left.

By timm's names ``global_pool`` is "token", the class token, or "avg", the mean of the patches.
"token+avg" is DINOv2's (arXiv 2304.07193): both, one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dynexport.errors import ModelError, unknown_choice
from dynexport.models.protocol import Hints, Shapes
from dynexport.models.sparsifiers import Tokens
from dynexport.models.untold import Alternative, Assumption

TOKEN, MEAN, BOTH = POOLINGS = ("token", "avg", "token+avg")


def pool(tokens: Tokens, kind: str, leading: int) -> Tensor:
    """Tokens to what a head reads: (B, C), or (B, 2C) of both.

    The mean is that of the patches alive, which come after the ``leading`` tokens.
    """
    parts = []
    if kind != MEAN:
        parts.append(tokens.x[:, 0])
    if kind != TOKEN:
        parts.append(_mean_alive(tokens, leading))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _mean_alive(tokens: Tokens, leading: int) -> Tensor:
    patches = tokens.x[:, leading:]
    if tokens.mask is None:
        return patches.mean(dim=1)
    alive = tokens.mask[:, leading:, None]
    return (patches * alive).sum(dim=1) / alive.sum(dim=1).clamp_min(1.0)


def require_pooling(kind: str, class_token: bool) -> None:
    """ModelError unless there is such a pooling, and what it reads."""
    if kind not in POOLINGS:
        choices = unknown_choice("global_pool", kind, POOLINGS)
        raise ModelError(f"{choices}, as in `args` global_pool={MEAN}")
    if kind != MEAN and not class_token:
        raise ModelError(
            f"global_pool {kind!r} reads a class token, and the model has none: its tensors "
            "have no 'cls_token'"
        )


def read_pooling(shapes: Shapes, hints: Hints, width: int) -> str:
    """The pooling of tensors: what was recorded, or said; else what they suggest.

    A head that is twice as wide as the model reads both; a norm behind the pooling, or no class
    token, tells of a mean.
    """
    if "cls_token" in shapes and shapes.get("head.weight", (0, 0))[-1] == 2 * width:
        return BOTH
    return _told(hints) or (
        MEAN if "fc_norm.weight" in shapes or "cls_token" not in shapes else TOKEN
    )


def assumed_pooling(config: Any, hints: Hints) -> Iterator[Assumption]:
    """A pooling that nothing told, where tensors allow of another."""
    kind = config.global_pool
    if kind == BOTH or not config.class_token or config.head_dist or _told(hints) is not None:
        return
    if kind == TOKEN:
        yield Assumption("the head reads the class token", "args", f"global_pool={MEAN}")
    else:
        yield Assumption("the head reads the mean of the patches", "args", f"global_pool={TOKEN}")


def _told(hints: Hints) -> str | None:
    """What was recorded of ``global_pool``; MAE's code says whether there is a mean."""
    told = hints.get("global_pool", hints.get("gp"))
    if isinstance(told, bool):
        return MEAN if told else TOKEN
    return told if isinstance(told, str) and told else None


def pre_logits(dim: int, width: int) -> tuple[nn.Module, int]:
    """What stands between pooling and head, and how many channels it leaves; width 0: nothing.

    As the first vision transformer has it (arXiv 2010.11929, section 3.1): a Linear and a tanh.
    """
    if not width:
        return nn.Identity(), dim
    module = nn.Sequential()
    module.add_module("fc", nn.Linear(dim, width))
    module.add_module("act", nn.Tanh())
    return module, width


def other_poolings(config: Any) -> Iterator[Alternative]:
    """What else the head may read."""
    for kind in (TOKEN, MEAN):
        if kind != config.global_pool:
            yield Alternative(f"`args` global_pool={kind}", {"global_pool": kind})
