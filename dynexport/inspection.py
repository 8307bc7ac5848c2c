"""What a file is, and what models there are, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynexport.errors import CheckpointError, ModelFileError
from dynexport.extras import require_convert_extras
from dynexport.files import existing_file, sha256_of
from dynexport.onnxfile import read_metadata, read_model
from dynexport.progress import OnStep, silent
from dynexport.sidecar import Sidecar

LISTED_RATIOS = (0.9, 0.7, 0.5)


def inspect_file(path: str | Path, *, plugins: Sequence[str | Path] = ()) -> dict[str, Any]:
    """What a file is, as plain values: a checkpoint, an ONNX file, or an engine, of which only the
    sidecar is read; ``plugins`` are files of families."""
    path = existing_file(path, "a checkpoint, an ONNX file or an engine")
    if path.suffix == ".onnx":
        return _inspect_onnx(path)
    if path.suffix == ".engine":
        return _inspect_engine(path)
    return _inspect_checkpoint(path, plugins)


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
    require_convert_extras()
    from dynexport.checkpoint import identify, load_checkpoint
    from dynexport.models import load_plugins, variant_name

    load_plugins(plugins)
    loaded = load_checkpoint(path)
    facts: dict[str, Any] = {
        "kind": "checkpoint",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "sha256": loaded.sha256,
        "weights": loaded.weights,
        "available": list(loaded.available),
        "tensors": len(loaded.state),
        "parameters": sum(t.numel() for t in loaded.state.values() if t.is_floating_point()),
        "args": loaded.args,
    }
    try:
        family, config = identify(loaded)
        facts |= {
            "family": family.name,
            "variant": variant_name(family, config),
            "config": dataclasses.asdict(config),  # type: ignore[call-overload]
        }
    except CheckpointError as error:
        facts |= {"family": None, "undecided": str(error)}
    return facts


def list_models(
    on_step: OnStep = silent, *, plugins: Sequence[str | Path] = ()
) -> list[dict[str, Any]]:
    """Every published variant: family, parameters, multiply-accumulates, accuracy.

    ``macs`` maps a keep ratio to multiply-accumulates for one image; 1.0 is the plain backbone.
    ``published_top1`` is ImageNet top-1 at ratio 0.7, per cent; None where none is known.
    ``plugins`` are files of further families.
    """
    require_convert_extras()
    import torch

    from dynexport.keep import schedule_from_base
    from dynexport.macs import count_macs
    from dynexport.models import load_plugins, variants
    from dynexport.rewrite import oracle, rewrite

    load_plugins(plugins)
    rows = []
    for name, (family, config) in variants().items():
        on_step(f"count {name}")
        with torch.device("meta"):
            model = family.model(config)
            stages = len(config.prune_at)
            schedules = {r: schedule_from_base(family.schedule, r, stages) for r in LISTED_RATIOS}
            macs = {1.0: count_macs(oracle(model, None))}
            macs |= {r: count_macs(rewrite(model, keep)) for r, keep in schedules.items()}
        rows.append(
            {
                "model": name,
                "family": family.name,
                "img_size": config.img_size,
                "prune_at": list(config.prune_at),
                "parameters": sum(p.numel() for p in model.parameters()),
                "macs": macs,
                "published_top1": family.published_top1.get(name),
            }
        )
    return rows
