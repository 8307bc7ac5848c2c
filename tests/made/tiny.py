"""Tiny models of every family that behave like trained ones, converted once and typed.

Random weights as they come give scores that are nearly equal, attention that is nearly flat and
tokens of variance one, on which few faults show. Here scores spread, attention prefers, residual
streams start small and grow slowly, and no scale, offset or bias is trivial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynexport.artifact import onnx_artifact
from dynexport.calibration.rounding import compare_under_one_choice
from dynexport.compare.tolerances import OwnRounding
from dynexport.conversion import Recipe, convert
from dynexport.formats.metadata import PREFIX, Batch, Metadata
from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.batch import change_batch, set_batch
from dynexport.graph.half import to_half
from dynexport.graph.linear_layers import LinearLayer, find_linear_layers
from dynexport.graph.probe import with_outputs
from dynexport.graph.quantise import quantise
from dynexport.images import synthetic_images
from dynexport.models import SparseModel, find_family, load_plugins, registry
from dynexport.models.convnext import ConvNeXtConfig
from dynexport.models.deit import DeiTConfig
from dynexport.models.layers import EMBEDDINGS, add_class_and_position
from dynexport.models.lvvit import LVViTConfig
from dynexport.models.swin import SwinConfig
from dynexport.precision.int8_dynamic import quantise_dynamically
from dynexport.pytorch.export import record_reference
from dynexport.pytorch.rewrite import rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule
from dynexport.verify.own import record_own

EVIT = Path(__file__).parents[2] / "examples" / "evit" / "evit.py"

TINY: Mapping[str, Callable[[], Any]] = {
    "deit": lambda: DeiTConfig(32, 2, 4, (1, 2, 3), patch_size=4, img_size=28, num_classes=10),
    "lvvit": lambda: LVViTConfig(32, 2, 4, (1, 2, 3), 4, 28, 10, stem_dim=8),
    "swin": lambda: SwinConfig(
        8, (1, 1, 4, 1), (1, 1, 2, 2), (1, 2, 3), (4, 4, 4, 4), 1, img_size=32, num_classes=10
    ),
    "convnext": lambda: ConvNeXtConfig(
        (8, 16, 32, 32), (1, 1, 4, 1), (1, 2, 3), 32, 10, patch_size=1
    ),
    "evit": lambda: find_family("evit").config(
        32, 2, 4, (1, 2, 3), patch_size=4, img_size=28, num_classes=10
    ),
}
"""Family -> its configuration: 49 or 64 tokens, three stages, two heads where it prunes."""

GAINS: Mapping[str, float] = {
    "attn.qkv.weight": 1.6,
    "attn.proj.weight": 0.5,
    "mlp.fc2.weight": 0.4,
    "fastmlp.fc1.1.weight": 0.5,
    "fast_path.1.weight": 1.0,
    "patch_embed.proj.weight": 0.12,
    "out_conv.4.weight": 6.0,
    "head.weight": 1.2,
}
"""Spread of a weight's product, inputs of variance one, by the end of its name; else 1.2."""


def trained_like(model: nn.Module, seed: int) -> None:
    """Weights of a model as training leaves them, drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, centre: float, spread: float) -> None:
        tensor.copy_(centre + spread * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            leaf = name.rpartition(".")[2]
            if leaf in EMBEDDINGS:
                draw(tensor, 0.0, 0.1)
            elif leaf == "relative_position_bias_table":
                draw(tensor, 0.0, 0.7)
            elif "gamma" in leaf:
                draw(tensor, 0.4, 0.1)
            elif leaf == "running_var":
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif not tensor.is_floating_point() or leaf == "attn_mask":
                continue
            elif tensor.ndim > 1:
                gain = next((g for end, g in GAINS.items() if name.endswith(end)), 1.2)
                draw(tensor, 0.0, gain / tensor[0].numel() ** 0.5)
            else:
                is_scale = leaf == "weight"
                spread = 0.02 if name == "patch_embed.proj.bias" else 0.2
                draw(tensor, float(is_scale), spread)


def level_scores(model: SparseModel) -> None:
    """Weights by which all tokens score alike, everywhere."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith("out_conv.4"):
                module.weight.copy_(module.weight[:1].expand_as(module.weight))
            elif name.endswith("attn.qkv") and not hasattr(model, "score_predictor"):
                dim = module.in_features
                module.weight[: 2 * dim] = 0.0
                module.bias[: 2 * dim] = 0.0


def forget_positions(model: SparseModel) -> None:
    """Weights that tell no position from another, so that equal patches score alike."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("pos_embed", "relative_position_bias_table")):
                parameter.zero_()


@dataclass(frozen=True)
class Tiny:
    """A tiny model converted: the float32 graph, and the inference form whose weights it holds."""

    graph: ir.Model
    metadata: Metadata
    lean: SparseModel
    bundle: ReferenceBundle


@contextlib.contextmanager
def families_kept() -> Iterator[None]:
    """Families that are loaded inside go afterwards, and the modules that define them."""
    known, modules = dict(registry._FAMILIES), set(sys.modules)
    try:
        yield
    finally:
        registry._FAMILIES.clear()
        registry._FAMILIES.update(known)
        for name in set(sys.modules) - modules:
            if name.startswith("dynexport_plugin_"):
                del sys.modules[name]


@contextlib.contextmanager
def evit_loaded() -> Iterator[None]:
    """The plugin's family is known inside, and afterwards all is as it was."""
    with families_kept():
        load_plugins([EVIT])
        yield


def build(family: str, seed: int, **changes: Any) -> SparseModel:
    """A training form with trained-like weights; ``changes`` to its configuration."""
    with evit_loaded() if family == "evit" else contextlib.nullcontext():
        config = dataclasses.replace(TINY[family](), **changes)
        model = find_family(family).model(config).eval()
    trained_like(model, seed)
    return model


def convert_tiny(
    folder: Path,
    family: str,
    ratios: tuple[float, ...] | None,
    *,
    batch: str,
    target: str = "tensorrt",
    opset: int = 20,
    **changes: Any,
) -> Tiny:
    """Through a checkpoint, as users do; ``ratios`` of None gives a dense model, the usual target
    standard operators alone.

    The folder gets FAMILY.pth, FAMILY.onnx and its bundle. They are made once in a process."""
    made = _convert_once(family, ratios, batch, target, opset, tuple(sorted(changes.items())))
    for path in Path(made.folder.name).iterdir():
        shutil.copy(path, folder)
    return dataclasses.replace(made.tiny, graph=made.tiny.graph.clone())


@dataclass(frozen=True)
class Made:
    """A conversion, and where its files stay as long as the process."""

    tiny: Tiny
    folder: tempfile.TemporaryDirectory[str]


@functools.cache
def _convert_once(
    family: str,
    ratios: tuple[float, ...] | None,
    batch: str,
    target: str,
    opset: int,
    changes: tuple[tuple[str, Any], ...],
) -> Made:
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    trained = build(family, 0, **dict(changes))
    config = trained.config
    args = {"pruning_loc": list(config.prune_at), "input_size": list(config.img_size)}
    args |= {name: getattr(config, name, None) for name in ("num_heads", "global_pool")}
    checkpoint = folder / f"{family}.pth"
    torch.save({"model": trained.state_dict(), "args": args}, checkpoint)
    with evit_loaded() if family == "evit" else contextlib.nullcontext():
        result = convert(
            Recipe(
                checkpoint,
                ratios=ratios,
                dense=ratios is None,
                batch=batch,
                target=target,
                opset=opset,
                output=folder / f"{family}.onnx",
            )
        )
    lean = rewrite(trained, None if ratios is None else KeepSchedule(ratios))
    bundle = ReferenceBundle.load(result.reference)
    return Made(Tiny(read_model(result.onnx), result.metadata, lean, bundle), kept)


def typed(tiny: Tiny, precision: str) -> ir.Model:
    """A copy of the float32 graph in a precision; int8 says in its metadata how it was made.

    Its ranges are read off the bundle's images and a few more, predictors stay in float.
    """
    if precision == "fp32":
        return tiny.graph.clone()
    if not precision.startswith("int8"):
        return to_half(tiny.graph, precision, marks=tiny.metadata.dense_twin)  # type: ignore[arg-type]
    layers = [layer for layer in find_linear_layers(tiny.graph) if not layer.ranks]
    facts: dict[str, Any] = {"name": precision}
    if precision == "int8-dynamic":
        graph = quantise_dynamically(tiny.graph, layers)
    else:
        ranges = ranges_of(tiny, layers)
        graph = quantise(tiny.graph, ranges)
        chosen = [{"layer": p.name, "threshold": ranges[p.node]} for p in layers]
        facts["int8"] = {"ranges": chosen}
    if precision == "int8-fp16":
        graph = to_half(graph, "fp16", marks=tiny.metadata.dense_twin)
    facts["rounding"] = dataclasses.asdict(rounding_of(tiny, graph))
    graph.metadata_props[f"{PREFIX}precision"] = json.dumps(facts)
    return graph


def rounding_of(tiny: Tiny, graph: ir.Model) -> OwnRounding:
    """As `convert` measures it: of a typed graph, on the bundle's images and a few more."""
    steps, size = tiny.metadata.preprocessing, Batch.parse(tiny.metadata.batch).optimal
    more = steps.normalise(synthetic_images(24, steps.img_size, seed=2))
    cut = [
        images[at : at + size]
        for images in (tiny.bundle.inputs(steps), more)
        for at in range(0, len(images), size)
    ]
    return compare_under_one_choice(tiny.graph, graph, tiny.metadata, cut)


def remember(tiny: Tiny, graph: ir.Model) -> ReferenceBundle:
    """The bundle with a typed graph's own answers in it, as `convert` writes it."""
    artifact = onnx_artifact(Path("tiny.onnx"), graph, read_metadata("tiny", graph))
    return dataclasses.replace(tiny.bundle, own=record_own(artifact, tiny.bundle))


def ranges_of(tiny: Tiny, layers: Sequence[LinearLayer]) -> dict[str, float]:
    """By layer the largest magnitude of what it takes."""
    steps = tiny.metadata.preprocessing
    more = steps.normalise(synthetic_images(8, steps.img_size, seed=1))
    images = np.concatenate([tiny.bundle.inputs(steps), more])
    probe = with_outputs(tiny.graph, {layer.source for layer in layers})
    set_batch(probe, Batch.parse(f"1:{len(images)}:64"))
    with open_runner("onnxruntime", to_bytes(probe)) as runner:
        seen = runner.run(images)
    return {p.node: float(np.abs(seen[p.source]).max()) for p in layers}


def refill(tiny: Tiny, trained: SparseModel) -> Tiny:
    """The same graph with the weights of another training form of the same configuration, as if
    it had been converted; nothing is recorded of it yet.

    Each constant is found by its content among the old weights, as they are or transposed, and
    replaced by the new ones there. What is not found depends on no weights.
    """
    ratios = tiny.metadata.ratios
    lean = rewrite(trained, None if ratios is None else KeepSchedule(ratios))
    pairs = zip(_tensors_of(tiny.lean), _tensors_of(lean), strict=True)
    fresh = {_content(old): new for old, new in pairs}
    graph = tiny.graph.clone()
    for name, value in graph.graph.initializers.items():
        assert value.const_value is not None
        array = fresh.get(_content(value.const_value.numpy()))
        if array is not None:
            value.const_value = ir.tensor(array, name=name)
    return dataclasses.replace(tiny, graph=graph, lean=lean)


def take_batches(tiny: Tiny, batch: str) -> Tiny:
    """The same for other batch sizes."""
    graph = tiny.graph.clone()
    change_batch(graph, tiny.metadata, Batch.parse(batch))
    return dataclasses.replace(tiny, graph=graph, metadata=read_metadata("tiny", graph))


def _tensors_of(lean: SparseModel) -> list[NDArray[Any]]:
    """What an exporter may make constants of."""
    tensors = [*lean.parameters(), *lean.buffers()]
    named = dict(lean.named_parameters())
    if "pos_embed" in named:
        positions = named["pos_embed"]
        nothing = torch.zeros_like(positions[:, 1:])
        tensors.append(add_class_and_position(nothing, named["cls_token"], positions))
    arrays = [tensor.detach().numpy() for tensor in tensors]
    return [*arrays, *(np.ascontiguousarray(array.T) for array in arrays if array.ndim == 2)]


def _content(array: NDArray[Any]) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def answers_for(tiny: Tiny, images: NDArray[Any]) -> Tiny:
    """The same with PyTorch's answers for these images recorded; see `ReferenceBundle.images`."""
    return dataclasses.replace(tiny, bundle=record_reference(tiny.lean, tiny.metadata, images))


def write(folder: Path, graph: ir.Model, bundle: ReferenceBundle) -> Path:
    """The ONNX file, its bundle beside it."""
    path = folder / "tiny.onnx"
    path.write_bytes(to_bytes(graph))
    bundle.save(ReferenceBundle.path_beside(path))
    return path
