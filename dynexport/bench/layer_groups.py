"""Where the time goes: layer times grouped by what the layers do in the model.

Exported nodes are named after the model's modules and their operator, as in
``blocks.3.attn/Softmax``; engines list the nodes that each of their layers was made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

GROUPS = ("attention", "MLP", "predictor", "top-k + gather", "other")
"""What a layer can belong to; ``top-k + gather`` is what selection moves: ranks, rows, and putting
two paths' rows together again."""

MOVES_ROWS = {
    "TopK",
    "GatherND",
    "GatherElements",
    "ScatterND",
    "ScatterElements",
    "Concat",
}
HEAVY = {"MatMul", "Gemm", "Conv", "MultiHeadAttention"}
MODULES = (
    ("predictor", re.compile(r"predictor")),
    ("attention", re.compile(r"\battn\b|attention")),
    ("MLP", re.compile(r"mlp|pwconv|fast_path|ffn|\bfc\d")),
)


def group_of(nodes: Sequence[str]) -> str:
    """The group of a layer made of these nodes: that of its heaviest operator, if it holds one."""
    groups = [(_operator(node) in HEAVY, _group_of_node(node)) for node in nodes]
    named = sorted((group for group in groups if group[1] != "other"), key=lambda g: not g[0])
    return named[0][1] if named else "other"


def group_times(
    times: Mapping[str, float], nodes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, float]:
    """Milliseconds by group, in the order of `GROUPS`.

    times: by layer; nodes: what each layer was made of, by default what its name says.
    """
    grouped = dict.fromkeys(GROUPS, 0.0)
    for layer, milliseconds in times.items():
        grouped[group_of((nodes or {}).get(layer) or [layer])] += milliseconds
    return grouped


def _operator(node: str) -> str:
    """``blocks.3.attn/MatMul_1`` is a MatMul."""
    return re.sub(r"_\d+$", "", node.rpartition("/")[2])


def _group_of_node(node: str) -> str:
    if _operator(node) in MOVES_ROWS:
        return "top-k + gather"
    module = node.rpartition("/")[0]
    for group, pattern in MODULES:
        if pattern.search(module):
            return group
    return "MLP" if _operator(node) == "Gelu" else "other"
