"""The tests' own cache: nothing is shared that might differ, and it does not grow for ever."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from made.cache import Cache, asked_once, digest_of
from torch import Tensor, nn

from dynexport.pytorch import export


class Scaled(nn.Module):
    def __init__(self, factor: float, names: tuple[str, ...] = ("a", "b")) -> None:
        super().__init__()
        self.factor, self.names = factor, set(names)
        self.weight = nn.Parameter(torch.arange(3.0))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x * self.weight * self.factor,)


def test_it_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"content"

    for _ in range(2):
        assert Cache(tmp_path / "cache").get("key", make) == b"content"
    assert made == [1]
    assert Cache(tmp_path / "cache").get("other", make) == b"content"
    assert made == [1, 1]


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    kept = Cache(tmp_path)
    for age, key in enumerate("abc"):
        kept.get(key, lambda: bytes(10))
        os.utime(tmp_path / key, (1000 - age, 1000 - age))
    kept.get("c", lambda: b"it is there, and now used")
    kept.prune(largest=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_equal_modules_are_one_and_others_are_not() -> None:
    same = {digest_of(Scaled(2.0, names)) for names in (("a", "b"), ("b", "a"))}
    assert len(same) == 1
    assert None not in same
    changed = Scaled(2.0)
    with torch.no_grad():
        changed.weight[1] = 7.0
    others = [digest_of(module) for module in (Scaled(3.0), changed, Scaled(2.0, ("a",)))]
    others += [digest_of(Scaled(2.0), 21), digest_of(nn.Sequential(Scaled(2.0)))]
    assert len({*same, *others}) == 6


def test_what_cannot_be_told_apart_is_made_anew(tmp_path: Path) -> None:
    class Local(nn.Module):
        """Of a function: nobody else could find its code."""

    module, made = Local(), []

    def translate(*given: Any) -> ir.Model:
        made.append(given)
        return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)

    look_up = asked_once(translate, Cache(tmp_path))
    for _ in range(2):
        look_up(module, torch.zeros(1), ["y"], 20)
    assert len(made) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.exporter
def test_a_kept_graph_is_the_exporters_to_the_byte(tmp_path: Path) -> None:
    translate = export._translate
    graphs = [
        look_up(Scaled(2.0), torch.zeros(2, 3), ["y"], 20)
        for look_up in (translate, asked_once(translate, Cache(tmp_path)))
        for _ in range(2)
    ]
    written = {ir.to_proto(graph).SerializeToString(deterministic=True) for graph in graphs}
    assert len(written) == 1
