"""An engine to a runner, if its sidecar says that it belongs here."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from dynexport.engine.batches import batch_ranges
from dynexport.engine.plan import build_plan
from dynexport.engine.sidecar import REBUILD, Sidecar, read_plan
from dynexport.errors import EngineError
from dynexport.files import cache_folder, existing_file
from dynexport.formats.onnx_file import read_model
from dynexport.graph.functions import in_standard
from dynexport.runtimes import cuda
from dynexport.runtimes.tensorrt import EDITIONS, find_edition
from dynexport.runtimes.tensorrt.editions import fits
from dynexport.runtimes.tensorrt.runner import EngineRunner


def open_engine(engine: str | Path, *, trust: bool = False, profile: bool = False) -> EngineRunner:
    """Open an engine on the GPU, if its sidecar says that it belongs here.

    ``trust`` opens it whatever the sidecar says, and without one, in the TensorRT that is
    installed: an engine is native code, so know where it comes from. ``profile``: time layers.
    EngineError says what does not fit, DeviceError that there is no GPU.
    """
    path = existing_file(engine, "an engine that `dynexport build` wrote")
    if trust and not Sidecar.path_beside(path).is_file():
        return EngineRunner(find_edition("auto"), read_plan(path, None), profile=profile)
    facts = Sidecar.load(path)
    plan = read_plan(path, None if trust else facts)
    require_runnable(path, facts, trust)
    edition = EDITIONS[facts.flavour]
    kernels = cache_folder() / f"{facts.engine_sha256[:16]}.kernels" if edition.jit else None
    return EngineRunner(
        edition,
        plan,
        weights=_weights(path, facts) if facts.options.strip_weights else None,
        host_code=facts.options.version_compatible,
        kernels=kernels,
        profile=profile,
    )


def open_alike(facts: Sidecar, graph: ir.Model) -> EngineRunner:
    """Build another graph as an engine was built, in memory, and open it."""
    edition = find_edition(facts.flavour)
    ranges = batch_ranges(graph, facts.onnx, facts.batches)
    weights = in_standard(graph) if facts.options.strip_weights else None
    return EngineRunner(
        edition, build_plan(edition, graph, ranges, facts.options).content, weights=weights
    )


def _weights(engine: Path, facts: Sidecar) -> ir.Model:
    """The ONNX file beside an engine that was built without its weights."""
    beside = facts.onnx_beside(engine)
    if beside is None:
        raise EngineError(
            f"{engine} holds no weights: put {facts.onnx}, which it was built from, beside it"
        )
    return in_standard(read_model(beside))


def require_runnable(engine: Path, facts: Sidecar, trust: bool = False) -> None:
    """EngineError unless the TensorRT and the GPU that are here run the engine.

    DeviceError if there is no GPU. With ``trust`` they need only be there.
    """
    if facts.flavour not in EDITIONS:
        raise EngineError(f"{engine} was built with {facts.flavour}, which is unknown: {REBUILD}")
    edition = EDITIONS[facts.flavour]
    version, device = edition.load().__version__, cuda.current_device()
    if trust:
        return
    if not _same_version(facts, version):
        raise EngineError(
            f"{engine} was built with {edition.name} {facts.version}, here is {version}: {REBUILD}"
        )
    if not fits(device.capability, facts.capabilities):
        raise EngineError(
            f"{engine} runs on compute capability {', '.join(facts.capabilities)}, this "
            f"{device.name} has {device.capability}: {REBUILD} on it, or for it"
        )
    if facts.gpu not in (None, device.name) and not facts.options.hardware_compatible:
        raise EngineError(
            f"{engine} was built on a {facts.gpu}, this is a {device.name}: {REBUILD} here, or "
            "give `trust` to run it as it is"
        )


def _same_version(facts: Sidecar, version: str) -> bool:
    if not facts.options.version_compatible:
        return version == facts.version
    ours, theirs = ([int(part) for part in v.split(".")[:2]] for v in (version, facts.version))
    return ours[0] == theirs[0] and ours >= theirs
