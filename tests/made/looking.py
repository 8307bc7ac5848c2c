"""What is looked at: families, their ratios, files opened."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from dynexport.artifact import Artifact, find_artifact
from made.tiny import Tiny, write

FAMILIES = ("deit", "lvvit", "swin", "convnext", "evit")


RATIOS = (0.7, 0.5, 0.3)


def artifact_of(tiny: Tiny, folder: Path, graph: ir.Model | None = None) -> Artifact:
    return find_artifact(write(folder, graph or tiny.graph, tiny.bundle))
