"""Graphs of tens of thousands of nodes: what is done for each node stays a handful of looks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from made.small_graphs import unrolled_graph

import dynexport.graph.sizes
from dynexport import optimize_model
from dynexport.graph.inference import infer_outputs

LOOKS = 8
"""How often a node is looked at, on average over those of the file."""


def optimize_counted(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int, int]:
    """Nodes of an unrolled graph, how often one was looked at, how often ONNX was asked."""
    path = tmp_path / "unrolled.onnx"
    onnx.save(unrolled_graph(steps), str(path))
    looked: Counter[str] = Counter()
    learn = dynexport.graph.sizes._learn_node

    def counting(node: ir.Node, *given: object) -> None:
        looked["nodes"] += 1
        learn(node, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(dynexport.graph.sizes, "_learn_node", counting)
    infer_outputs.cache_clear()
    result = optimize_model(path, tmp_path / "lean.onnx")
    assert result.error == 0
    assert result.nodes[1] <= 8 * steps + 20  # of 17 that compute something
    return len(onnx.load(str(path)).graph.node), looked["nodes"], infer_outputs.cache_info().misses


def test_each_node_is_looked_at_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, looked, asked = optimize_counted(40, tmp_path, monkeypatch)
    assert nodes > 900
    assert looked < LOOKS * nodes
    assert asked < nodes / 2


@pytest.mark.slow
def test_a_graph_of_25000_nodes_takes_no_more_looks_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ONNX's rules are asked no more than for a graph of a thousand, which asks it all."""
    nodes, looked, asked = optimize_counted(1100, tmp_path, monkeypatch)
    assert nodes > 25000
    assert looked < LOOKS * nodes
    assert asked < 1000
