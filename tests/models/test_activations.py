"""Epsilon and activation: in the training form, kept in the inference form, and in older opsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from made.tiny import build

from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.older_opset import lower_opset
from dynexport.models.activations import ACTIVATIONS, make_activation
from dynexport.pytorch.rewrite import oracle, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule

X = torch.linspace(-6, 6, 101)
RIGHT = {
    "gelu": 0.5 * X * (1 + torch.erf(X / 2**0.5)),
    "gelu_tanh": 0.5 * X * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (X + 0.044715 * X**3))),
    "quick_gelu": X / (1 + torch.exp(-1.702 * X)),
    "relu": X.clamp_min(0),
}


def test_each_is_what_it_is_called() -> None:
    assert RIGHT.keys() == ACTIVATIONS.keys()
    for name, right in RIGHT.items():
        assert torch.allclose(make_activation(name)(X), right, atol=1e-6), name


@pytest.mark.parametrize("family", ["deit", "lvvit", "swin", "convnext"])
def test_both_stay_in_the_inference_form(family: str) -> None:
    keep, size = KeepSchedule((0.7, 0.5, 0.3)), 28 if family in ("deit", "lvvit") else 32
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    usual = build(family, 0)
    with torch.inference_mode():
        before = rewrite(usual, keep)(images).logits
        for changes in ({"norm_eps": 0.1}, {"activation": "quick_gelu"}, {"activation": "relu"}):
            model = build(family, 0, **changes)
            expected = oracle(model, keep)(images).logits
            assert torch.allclose(rewrite(model, keep)(images).logits, expected, atol=1e-4)
            assert not torch.allclose(before, expected, atol=1e-3), changes


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_an_older_opset_spells_out_which_gelu_it_is(tmp_path: Path, approximate: str) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (float[1, 101] images) => (float[1, 101] y) '
        f'{{ y = Gelu <approximate = "{approximate}"> (images) }}'
    )
    graph = ir.serde.deserialize_model(proto)
    lower_opset(graph, 17)
    assert "Gelu" not in {node.op_type for node in graph.graph}
    path = tmp_path / "x.onnx"
    path.write_bytes(to_bytes(graph))
    with open_runner("onnxruntime", path) as runner:
        found = runner.run(X.numpy()[None])["y"]
    expected = F.gelu(X, approximate=approximate).numpy()[None]
    assert np.abs(found - expected).max() < 1e-6
