"""The whole line: one function a command, from plain values to a frozen result."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dynexport.backends import open_runner
from dynexport.bench import Candidate, Plan, Timing, speedup, time_candidates
from dynexport.calibration import Preprocessing, load_images, synthetic_images
from dynexport.errors import InputError, MissingExtraError, ModelFileError, ScheduleError
from dynexport.files import existing_file, sha256_of, written_whole
from dynexport.graph.selection import dense_twin
from dynexport.keep import KeepSchedule, parse_ratios, schedule_from_base
from dynexport.metadata import Batch, Metadata
from dynexport.onnxfile import read_metadata, read_model, to_bytes
from dynexport.reference import ReferenceBundle
from dynexport.verify import TOLERANCE, Verification, compare, verify

if TYPE_CHECKING:
    from torch import nn

    from dynexport.checkpoint import Checkpoint
    from dynexport.models import Config, Family
    from dynexport.rewrite import Proof

OnStep = Callable[[str], None]
"""Told the name of each step as it begins."""

REFERENCE_IMAGES = 8


def silent(step: str) -> None:
    """An `OnStep` that says nothing."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` made.

    onnx, reference    the files
    proof              inference form against training form, in PyTorch
    verification       ONNX against PyTorch
    nodes, nodes_dense graph size, and that of the dense twin
    seconds            per step, in order
    """

    onnx: str
    reference: str
    size_bytes: int
    nodes: int
    nodes_dense: int
    metadata: Metadata
    proof: Proof
    verification: Verification
    seconds: dict[str, float]


@dataclass(frozen=True)
class BenchResult:
    """Timings of one model, its dense twin and PyTorch.

    speedup   dense twin over sparse, on the same runtime, paired round by round
    ideal     the quotient of their multiply-accumulates; efficiency: speedup / ideal
    """

    model: str
    batch: int
    threads: int | None
    timings: tuple[Timing, ...]
    speedup: float | None
    ideal: float
    efficiency: float | None


def convert(
    checkpoint: str | Path,
    *,
    ratio: float | None = None,
    ratios: str | tuple[float, ...] | None = None,
    dense: bool = False,
    model: str | None = None,
    prune_at: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    weights: str | None = None,
    batch: str | int = 8,
    images: str | Path | None = None,
    emit_kept: bool = False,
    opset: int = 20,
    output: str | Path | None = None,
    on_step: OnStep = silent,
) -> Conversion:
    """Turn a checkpoint into a verified ONNX file and its reference bundle.

    ratio, ratios  keep ratio of the family's schedule, or one per stage; by default the ratio
                   the checkpoint was trained with. ``dense`` exports the twin that drops nothing
    model, prune_at, num_heads, weights  settle what the checkpoint leaves open
    batch          "8" (static) or "1:8:64" (dynamic: smallest, optimal, largest)
    images         folder of pictures or .npz for the reference bundle; synthetic without
    emit_kept      adds outputs kept_0 ... with the positions kept
    output         the .onnx to write; by default named after the checkpoint, in this folder

    Raises DynexportError's subclasses; then nothing was written.
    """
    sizes = Batch.parse(str(batch))
    _require_convert_extras()
    from dynexport.checkpoint import build_model, identify, load_checkpoint
    from dynexport.export import export_onnx, record_reference
    from dynexport.rewrite import prove, rewrite

    clock = _Clock(on_step)
    with clock("read the checkpoint"):
        loaded = load_checkpoint(checkpoint, weights)
        family, config = identify(loaded, model, prune_at, num_heads)
        keep = None if dense else choose_schedule(loaded, family, config, ratio, ratios)
        trained = build_model(loaded, family, config)
        target = Path(output) if output else Path(_default_name(loaded.path, keep, ratio))
    with clock("rewrite masks to top-k gathers"):
        lean = rewrite(trained, keep)
        metadata = describe_model(loaded, family, config, keep, sizes, trained, lean)
        pictures = _reference_images(images, metadata.preprocessing)
    with clock("prove it against the training form"):
        normalised = metadata.preprocessing.normalise(pictures[:2])
        proof = prove(trained, lean, keep, _tensor(normalised))
    with clock("record PyTorch's answers"):
        bundle = record_reference(lean, metadata, pictures)
    beside = ReferenceBundle.path_beside(target)
    with written_whole(target, beside) as (onnx_draft, bundle_draft):
        with clock("export ONNX"):
            graph = export_onnx(lean, metadata, sizes, emit_kept=emit_kept, opset=opset)
            content = to_bytes(graph)
            onnx_draft.write_bytes(content)
            bundle.save(bundle_draft)
        with clock("verify ONNX against PyTorch"):
            outcome = compare(onnx_draft, bundle, str(beside))
            outcome = dataclasses.replace(outcome, model=str(target))
            outcome.require_passed()
    nodes = sum(1 for _ in graph.graph)
    return Conversion(
        onnx=str(target),
        reference=str(beside),
        size_bytes=len(content),
        nodes=nodes,
        nodes_dense=nodes if dense else sum(1 for _ in dense_twin(graph).graph),
        metadata=metadata,
        proof=proof,
        verification=outcome,
        seconds=clock.seconds,
    )


def choose_schedule(
    loaded: Checkpoint,
    family: Family,
    config: Config,
    ratio: float | None,
    ratios: str | tuple[float, ...] | None,
) -> KeepSchedule:
    """The keep schedule asked for, or the one the checkpoint was trained with."""
    if ratio is not None and ratios is not None:
        raise ScheduleError("--ratio and --ratios were both given: give one of the two")
    if ratios is not None:
        return parse_ratios(ratios) if isinstance(ratios, str) else KeepSchedule(tuple(ratios))
    base = ratio if ratio is not None else loaded.args.get("base_rate")
    if base is None:
        raise ScheduleError(
            f"{loaded.path} does not say what keep ratio it was trained with: "
            "give one, as in --ratio 0.7"
        )
    return schedule_from_base(family.schedule, float(base), len(config.prune_at))


def describe_model(
    loaded: Checkpoint,
    family: Family,
    config: Config,
    keep: KeepSchedule | None,
    batch: Batch,
    trained: nn.Module,
    lean: nn.Module,
) -> Metadata:
    """The metadata of an export."""
    from dynexport.macs import count_macs
    from dynexport.models import variant_name
    from dynexport.rewrite import keep_counts, oracle

    packages = ("dynexport", "torch", "onnx", "onnxscript", "onnx-ir")
    return Metadata(
        family=family.name,
        variant=variant_name(family, config),
        config=dataclasses.asdict(config),  # type: ignore[call-overload]
        ratios=None if keep is None else keep.ratios,
        keep_counts=() if keep is None else keep_counts(trained, keep),
        num_tokens=config.num_tokens,
        selection=family.model.selection,
        batch=str(batch),
        classes=config.num_classes,
        macs_dense=count_macs(oracle(trained, None)),
        macs_sparse=count_macs(lean),
        preprocessing=Preprocessing.for_size(config.img_size),
        checkpoint_sha256=loaded.sha256,
        weights=loaded.weights,
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def verify_model(
    model: str | Path,
    *,
    reference: str | Path | None = None,
    checkpoint: str | Path | None = None,
    backend: str = "onnxruntime",
    tolerance: float = TOLERANCE,
) -> Verification:
    """Verify an ONNX file against a reference bundle, or against a checkpoint run in PyTorch.

    By default the bundle beside it. With ``checkpoint``, PyTorch answers afresh for the bundle's
    images where there is one, else for synthetic ones.
    """
    if reference is not None and checkpoint is not None:
        raise InputError("--reference and --checkpoint were both given: give one of the two")
    if checkpoint is None:
        return verify(model, reference, backend=backend, tolerance=tolerance)
    path = existing_file(model, "an ONNX file")
    metadata = read_metadata(path)
    bundle = _answers_of(Path(checkpoint), metadata, path)
    return compare(path, bundle, str(checkpoint), backend, tolerance)


def _answers_of(checkpoint: Path, metadata: Metadata, model: Path) -> ReferenceBundle:
    """PyTorch's answers from a checkpoint, at the ratios an ONNX file was exported with."""
    _require_convert_extras()
    from dynexport.checkpoint import build_model, load_checkpoint
    from dynexport.export import record_reference
    from dynexport.models import FAMILIES
    from dynexport.rewrite import rewrite

    weights = None if metadata.weights == "bare" else metadata.weights
    loaded = load_checkpoint(checkpoint, weights)
    if loaded.sha256 != metadata.checkpoint_sha256:
        raise ModelFileError(
            f"{model} was not made from {checkpoint}: it names a checkpoint with SHA-256 "
            f"{metadata.checkpoint_sha256[:12]}, this one has {loaded.sha256[:12]}"
        )
    family = FAMILIES[metadata.family]
    trained = build_model(loaded, family, family.config(**metadata.config))
    keep = None if metadata.ratios is None else KeepSchedule(metadata.ratios)
    beside = ReferenceBundle.path_beside(model)
    if beside.exists():
        images = ReferenceBundle.load(beside).images
    else:
        images = _reference_images(None, metadata.preprocessing)
    return record_reference(rewrite(trained, keep), metadata, images)


def bench_model(
    model: str | Path,
    *,
    batch: int | None = None,
    backend: str = "onnxruntime",
    threads: int | None = None,
    pytorch: bool = True,
    plan: Plan | None = None,
    on_step: OnStep = silent,
) -> BenchResult:
    """Time an ONNX file, its dense twin and (where installed) PyTorch, in turn.

    ``batch`` defaults to the size the file was made for. Timings use random images, and PyTorch
    random weights: neither changes what is computed.
    """
    plan = plan or Plan()
    path = existing_file(model, "an ONNX file")
    graph = read_model(path)
    metadata = read_metadata(path, graph)
    size = _bench_batch(metadata, batch)
    config = metadata.config
    shape = (size, config["in_chans"], config["img_size"], config["img_size"])
    open_runner(backend, path, threads)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"backend": backend, "model": str(path), "threads": threads}
        opener = "dynexport.backends:open_runner"
        sparse = bool(metadata.keep_counts)
        candidates = [Candidate(f"{backend} {'sparse' if sparse else 'dense'}", opener, arguments)]
        if sparse:
            twin = Path(folder) / "dense.onnx"
            twin.write_bytes(to_bytes(dense_twin(graph)))
            candidates.append(
                Candidate(f"{backend} dense", opener, {**arguments, "model": str(twin)})
            )
        if pytorch and importlib.util.find_spec("torch"):
            candidates += [
                Candidate(
                    f"pytorch {'dense' if dense else 'sparse'}",
                    "dynexport.pipeline:open_pytorch",
                    {"model": str(path), "dense": dense, "threads": threads},
                )
                for dense in ([False, True] if sparse else [True])
            ]
        on_step(f"time {', '.join(c.label for c in candidates)}")
        timings = time_candidates(
            candidates, shape, plan, lambda number: on_step(f"round {number} of {plan.rounds}")
        )
    gained = speedup(timings[1], timings[0]) if sparse else None
    ideal = metadata.ideal_speedup
    return BenchResult(
        model=str(path),
        batch=size,
        threads=threads,
        timings=tuple(timings),
        speedup=gained,
        ideal=ideal,
        efficiency=None if gained is None else gained / ideal,
    )


def open_pytorch(model: str, dense: bool, threads: int | None) -> Any:
    """The inference form an ONNX file was made from, with random weights, for timing only."""
    import torch

    from dynexport.backends.torch import open_module
    from dynexport.models import FAMILIES
    from dynexport.rewrite import rewrite

    metadata = read_metadata(model)
    torch.manual_seed(0)
    family = FAMILIES[metadata.family]
    trained = family.model(family.config(**metadata.config))
    keep = None if dense or metadata.ratios is None else KeepSchedule(metadata.ratios)
    return open_module(rewrite(trained, keep), threads)


def _bench_batch(metadata: Metadata, batch: int | None) -> int:
    sizes = Batch.parse(metadata.batch)
    size = sizes.optimal if batch is None else batch
    if not sizes.smallest <= size <= sizes.largest:
        raise InputError(
            f"batch {size} does not fit this file, which takes {metadata.batch}: "
            "convert again with another --batch"
        )
    return size


def inspect_file(path: str | Path) -> dict[str, Any]:
    """What a checkpoint or an ONNX file is, as plain values."""
    path = existing_file(path, "a checkpoint or an ONNX file")
    return _inspect_onnx(path) if path.suffix == ".onnx" else _inspect_checkpoint(path)


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


def _inspect_checkpoint(path: Path) -> dict[str, Any]:
    _require_convert_extras()
    from dynexport.checkpoint import identify, load_checkpoint
    from dynexport.errors import CheckpointError
    from dynexport.models import variant_name

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


def _reference_images(source: str | Path | None, steps: Preprocessing) -> Any:
    if source is None:
        return synthetic_images(REFERENCE_IMAGES, steps.img_size)
    return load_images(Path(source), REFERENCE_IMAGES, steps)


def _default_name(checkpoint: Path, keep: KeepSchedule | None, ratio: float | None) -> str:
    stem = checkpoint.name.split(".")[0]
    if keep is None:
        return f"{stem}-dense.onnx"
    ratios = [ratio] if ratio is not None else keep.ratios
    return f"{stem}-{'-'.join(f'{value:g}' for value in ratios)}.onnx"


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)


def _require_convert_extras() -> None:
    """MissingExtraError unless everything `convert` imports is installed."""
    for package in ("torch", "onnxscript", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "convert")


class _Clock:
    """Times the steps of a command, and tells of each as it begins."""

    def __init__(self, on_step: OnStep) -> None:
        self.seconds: dict[str, float] = {}
        self._on_step = on_step

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._on_step(step)
        start = perf_counter()
        yield
        self.seconds[step] = perf_counter() - start
