"""What ONNX Runtime has one kernel for, joined once a graph is otherwise finished."""

from __future__ import annotations

from dynexport.graph.fuse import fuse_operators
from dynexport.graph.rule import Rule

RULE = Rule("fused", "operators joined that ONNX Runtime has one kernel for", apply=fuse_operators)
