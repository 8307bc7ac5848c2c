"""What a file is, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynexport.engine.sidecar import Sidecar
from dynexport.errors import CheckpointError, InputError, ModelFileError
from dynexport.files import existing_file, sha256_of
from dynexport.files.kinds import (
    CHECKPOINT,
    ENGINE,
    INDEX,
    ONNX,
    SCRIPT,
    kind_of,
    other_kind,
    weights_in,
)
from dynexport.formats.onnx_file import read_metadata, read_model
from dynexport.pytorch import require_convert_extras


def inspect_file(path: str | Path, *, plugins: Sequence[str | Path] = ()) -> dict[str, Any]:
    """What a checkpoint, an ONNX file or an engine is, as plain values.

    Of an engine only the sidecar is read; ``plugins`` are files of families.
    """
    if weights_in(Path(path)):
        return _inspect_checkpoint(Path(path), plugins)
    path = existing_file(path, INSPECTED)
    kind = kind_of(path) or SUFFIXES.get(path.suffix, CHECKPOINT)
    if kind == ONNX:
        return _inspect_onnx(path)
    if kind == ENGINE:
        return _inspect_engine(path)
    if kind in (CHECKPOINT, SCRIPT, INDEX):
        return _inspect_checkpoint(path, plugins)
    raise InputError(f"{other_kind(path, INSPECTED)}")


INSPECTED = "a checkpoint, an ONNX file or an engine"

SUFFIXES = {".onnx": ONNX, ".engine": ENGINE}
"""Where the content does not tell: it is damaged."""


def _inspect_engine(path: Path) -> dict[str, Any]:
    facts = Sidecar.load(path)
    known = facts.metadata if facts.properties else None
    return {
        "kind": "engine",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        **{k: v for k, v in dataclasses.asdict(facts).items() if k != "properties"},
        "intact": sha256_of(path) == facts.engine_sha256,
        "layers": len(facts.layers),
        "fused_attention": facts.fused_attention,
        "dynexport": None if known is None else dataclasses.asdict(known),
    }


def _inspect_onnx(path: Path) -> dict[str, Any]:
    graph = read_model(path)
    operators: dict[str, int] = {}
    for node in graph.graph:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    facts: dict[str, Any] = {
        "kind": "onnx",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "opset": graph.opset_imports.get(""),
        "inputs": {v.name: _shape(v) for v in graph.graph.inputs},
        "outputs": {v.name: _shape(v) for v in graph.graph.outputs},
        "nodes": sum(operators.values()),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
    }
    try:
        facts["dynexport"] = dataclasses.asdict(read_metadata(path, graph))
    except ModelFileError:
        facts["dynexport"] = None
    return facts


def _shape(value: Any) -> list[int | str]:
    return [size if isinstance(size, int) else str(size) for size in value.shape or ()]


def _inspect_checkpoint(path: Path, plugins: Sequence[str | Path]) -> dict[str, Any]:
    require_convert_extras(path)
    from dynexport.models import load_plugins, variant_name
    from dynexport.pytorch.checkpoint import load_checkpoint
    from dynexport.pytorch.identify import find_assumptions, identify
    from dynexport.pytorch.transform import read_preprocessing

    load_plugins(plugins)
    loaded = load_checkpoint(path)
    facts: dict[str, Any] = {
        "kind": "checkpoint",
        "path": str(loaded.path),
        "size_bytes": loaded.path.stat().st_size,
        "sha256": loaded.sha256,
        "weights": loaded.weights,
        "available": list(loaded.available),
        "tensors": len(loaded.state),
        "parameters": sum(t.numel() for t in loaded.state.values() if t.is_floating_point()),
        "args": loaded.args,
    }
    try:
        family, config = identify(loaded)
        steps, of_pictures = read_preprocessing(loaded.args, config)
        assumed = (*find_assumptions(loaded, family, config), *of_pictures)
        facts |= {
            "family": family.name,
            "variant": variant_name(family, config),
            "config": dataclasses.asdict(config),  # type: ignore[call-overload]
            "preprocessing": dataclasses.asdict(steps),
            "assumed": [str(one) for one in assumed],
        }
    except CheckpointError as error:
        facts |= {"family": None, "undecided": str(error)}
    return facts
