"""What models of a family may have, or lack: changes to its tiny configuration, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VISION_TRANSFORMERS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "distilled": {"dist_token": True, "head_dist": True},
    "distilled, one head": {"dist_token": True},
    "registers": {"registers": 4},
    "registers without a place": {"registers": 4, "unplaced": 4},
    "class token without a place": {"unplaced": 1},
    "nothing but patches has a place": {"registers": 3, "unplaced": 4},
    "mean, normed behind": {"global_pool": "avg", "norm": False, "fc_norm": True},
    "mean, normed before": {"global_pool": "avg"},
    "mean, no class token": {
        "class_token": False,
        "global_pool": "avg",
        "norm": False,
        "fc_norm": True,
    },
    "mean, registers alone": {"class_token": False, "registers": 2, "global_pool": "avg"},
    "class token and mean": {"global_pool": "token+avg"},
    "pre-logits": {"representation": 24},
    "layer scale": {"layer_scale": True},
    "no bias of queries": {"qkv_bias": False},
}
"""Of a DeiT."""

WHOLE_LINE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "distilled": ("deit", VISION_TRANSFORMERS["distilled"]),
    "dinov2": (
        "deit",
        {"registers": 4, "unplaced": 4, "layer_scale": True, "global_pool": "token+avg"},
    ),
    "timm-reg-gap": (
        "deit",
        {"registers": 3, **VISION_TRANSFORMERS["mean, no class token"], "qkv_bias": False},
    ),
    "no-leading": ("deit", VISION_TRANSFORMERS["mean, no class token"]),
    "pre-logits": ("deit", {"representation": 24, "unplaced": 1}),
    "lvvit": ("lvvit", {"aux_head": False}),
    "swin": ("swin", {"absolute_positions": True, "patch_norm": False, "qkv_bias": False}),
    "convnext": ("convnext", {"layer_scale": False}),
}
"""A family and its changes, those above together."""
