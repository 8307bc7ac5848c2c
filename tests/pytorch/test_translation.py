"""PyTorch's program to ONNX: decomposed where it must be, else translated as it is."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from made.tiny import TINY, convert_tiny
from torch import Tensor, nn

from dynexport.pytorch.export import _decompose_only_if_needed

aten = torch.ops.aten


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x).flatten(1).unflatten(1, (2, 6)).sort(dim=1).values


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).add_(1)


def traced(module: nn.Module) -> torch.export.ExportedProgram:
    program = torch.export.export(module, (torch.zeros(2, 3, 4),), strict=False)
    _decompose_only_if_needed(program)
    return program


def called(program: torch.export.ExportedProgram) -> set[Any]:
    return {node.target for node in program.graph.nodes if node.op == "call_function"}


def test_a_program_with_nothing_to_decompose_stays_and_its_views_get_their_size() -> None:
    program = traced(Plain())
    table = torch._decomp.get_decompositions([aten.silu])
    assert program.run_decompositions(table) is program
    assert called(program) == {
        aten.gelu.default,
        aten.reshape.default,
        aten.sort.default,
        operator.getitem,
    }
    shapes = [n.args[1] for n in program.graph.nodes if n.target is aten.reshape.default]
    assert shapes == [[2, 12], [2, 2, 6]]
    x = torch.randn(2, 3, 4)
    assert torch.equal(program.module()(x), Plain()(x))


def test_an_operator_in_the_table_is_decomposed() -> None:
    table = torch._decomp.get_decompositions([aten.gelu])
    decomposed = called(traced(Plain()).run_decompositions(table))
    assert aten.gelu.default not in decomposed
    assert aten.erf.default in decomposed


def test_an_operator_that_writes_in_place_is_replaced() -> None:
    decomposed = called(traced(InPlace()).run_decompositions({}))
    assert not any(target._schema.is_mutable for target in decomposed)


@pytest.mark.parametrize("family", [name for name in TINY if name != "evit"])
def test_no_built_in_family_needs_decomposing(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be traced twice more: slow, not wrong."""

    def refuse(*_: Any) -> None:
        raise AssertionError(f"{family} is decomposed")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", refuse)
    ratios = (0.7, 0.5, 0.3)
    assert convert_tiny(tmp_path, family, ratios, batch="1:3:5").graph.graph.num_nodes() > 0
