"""Variants beside Hugging Face's own models: other code, the same weights, every token kept.

Their tensors are renamed here, and get predictors, which nothing reads where every token is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from made.saved import State, filled, in_hand
from made.tiny import build, trained_like
from torch import Tensor, nn

from dynexport.pytorch.rewrite import rewrite

NAMES: Mapping[str, str] = {
    r"^(vit|deit|dinov2|dinov2_with_registers|swin|convnext)\.": "",
    r"^embeddings\.(cls|mask)_token": r"\1_token",
    r"^embeddings\.distillation_token": "dist_token",
    r"^embeddings\.register_tokens": "register_tokens",
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^embeddings\.norm": "patch_embed.norm",
    r"^encoder\.": "",
    r"^layers?\.(\d+)\.(?!blocks|downsample)": r"blocks.\1.",
    r"relative_position_bias\.relative": "relative",
    r"attention\.(self\.|attention\.)?(qkv|relative)": r"attn.\2",
    r"attention\.(o_proj|proj|output\.dense)": "attn.proj",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"intermediate\.dense": "mlp.fc1",
    r"\.output\.dense": ".mlp.fc2",
    r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
    r"^pooler\.dense": "pre_logits.fc",
    r"^(cls_)?classifier": "head",
    r"^distillation_classifier": "head_dist",
    r"^embeddings\.patch_embeddings\.(weight|bias)": r"downsample_layers.0.0.\1",
    r"^embeddings\.layernorm": "downsample_layers.0.1",
    r"^stages\.(\d)\.downsampling_layer": r"downsample_layers.\1",
    r"^stages\.(\d)\.layers": r"stages.\1",
    r"layer_scale_parameter": "gamma",
    r"layernorm": "norm",
}
"""Theirs to the public code's, tried in this order."""

QUERY = re.compile(r"(.*)\.(q_proj|query)\.(weight|bias)")


def in_public_names(state: State, positions: str) -> State:
    """Their tensors, queries, keys and values in one, by the public code's names."""
    renamed = {}
    for name, tensor in state.items():
        if found := QUERY.fullmatch(name):
            others = ("k_proj", "v_proj") if found[2] == "q_proj" else ("key", "value")
            parts = [state[f"{found[1]}.{word}.{found[3]}"] for word in (found[2], *others)]
            name, tensor = f"{found[1]}.qkv.{found[3]}", torch.cat(parts)
        elif re.search(r"\.(k_proj|v_proj|key|value)\.", name):
            continue
        name = name.replace("embeddings.position_embeddings", positions)
        for pattern, ours in NAMES.items():
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    return renamed


def dense_logits(theirs: nn.Module, ours: nn.Module, images: Tensor, positions: str) -> Tensor:
    """Ours, of their weights and the predictors and fast paths of another model."""
    state = in_public_names(dict(theirs.state_dict()), positions)
    extra = re.compile(r"score_predictor|fast")
    state |= {name: value for name, value in ours.state_dict().items() if extra.search(name)}
    heads = getattr(ours.config, "num_heads", 2)
    args = {"pruning_loc": [1, 2, 3], "num_heads": heads, "input_size": images.shape[-1]}
    logits: Tensor = rewrite(filled(in_hand(state, **args)), None)(images).logits
    return logits


class Pooled(nn.Module):
    """A ViT whose pooler, a Linear and a tanh, a classifier reads."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vit = transformers.ViTModel(config)
        self.classifier = nn.Linear(config.pooler_output_size, 10)

    def forward(self, images: Tensor) -> Any:
        return transformers.modeling_outputs.ImageClassifierOutput(
            logits=self.classifier(self.vit(images).pooler_output)
        )


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_labels": 10,
    "image_size": 28,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}


@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {"intermediate_size": 128}),
        ("DeiTForImageClassification", "DeiTConfig", {"intermediate_size": 128}),
        (
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            {"num_register_tokens": 4},
        ),
        ("Dinov2ForImageClassification", "Dinov2Config", {}),
        (None, "ViTConfig", {"intermediate_size": 128, "pooler_output_size": 24}),
    ],
)
@torch.inference_mode()
def test_vision_transformers(model: str | None, config: str, settings: dict[str, Any]) -> None:
    described = getattr(transformers, config)(**SIZES, **settings)
    theirs = (Pooled if model is None else getattr(transformers, model))(described).eval()
    trained_like(theirs, 0)
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    found = dense_logits(theirs, build("deit", 1), images, "pos_embed")
    assert torch.allclose(found, theirs(images).logits, atol=2e-5)
    assert found.std() > 0.1


@pytest.mark.parametrize("qkv_bias", [True, False])
@torch.inference_mode()
def test_a_swin_with_absolute_positions(qkv_bias: bool) -> None:
    described = transformers.SwinConfig(
        image_size=32,
        patch_size=1,
        embed_dim=8,
        depths=[1, 1, 4, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        num_labels=10,
        use_absolute_embeddings=True,
        qkv_bias=qkv_bias,
    )
    theirs = transformers.SwinForImageClassification(described).eval()
    trained_like(theirs, 0)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = dense_logits(theirs, build("swin", 1), images, "absolute_pos_embed")
    assert torch.allclose(found, theirs(images).logits, atol=2e-5)


@pytest.mark.parametrize("start", [1e-6, 0.0])
@torch.inference_mode()
def test_a_convnext_with_and_without_layer_scale(start: float) -> None:
    described = transformers.ConvNextConfig(
        num_stages=4,
        hidden_sizes=[8, 16, 32, 32],
        depths=[1, 1, 4, 1],
        num_labels=10,
        image_size=32,
        patch_size=1,
        layer_scale_init_value=start,
        layer_norm_eps=1e-6,
    )
    theirs = transformers.ConvNextForImageClassification(described).eval()
    trained_like(theirs, 0)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours = build("convnext", 1, layer_scale=start > 0)
    found = dense_logits(theirs, ours, images, "")
    assert torch.allclose(found, theirs(images).logits, atol=2e-5)
