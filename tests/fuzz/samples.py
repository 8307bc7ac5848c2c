"""Sound files of every kind, from which unsound ones are made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from made.foreign import export_foreign
from made.tiny import TINY, convert_tiny
from PIL import Image
from safetensors.torch import save_file

from dynexport.conversion import Recipe, convert
from dynexport.engine.sidecar import Sidecar
from dynexport.formats.metadata import PREFIX
from dynexport.runtimes.tensorrt.options import BuildOptions

SIDE = TINY["deit"]().img_size.height


@dataclass(frozen=True)
class Samples:
    """Where they lie; see `make_samples`."""

    folder: Path

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    @cached_property
    def models(self) -> dict[str, onnx.ModelProto]:
        """ONNX files by name, parsed."""
        return {path.name: onnx.load(str(path)) for path in sorted(self.folder.glob("*.onnx"))}

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """What deit.pth holds."""
        content: dict[str, Any] = torch.load(self.folder / "deit.pth", weights_only=True)
        return content

    @cached_property
    def bundle(self) -> dict[str, Any]:
        """The arrays of the reference bundle."""
        with np.load(self.folder / "deit.reference.npz") as arrays:
            return dict(arrays)


def make_samples(folder: Path) -> Samples:
    """A checkpoint in three forms, ONNX files of dynexport's and of others, a bundle, an engine
    with its sidecar, pictures and arrays of them."""
    convert_tiny(folder, "deit", (0.7, 0.5, 0.3), batch="1:2:4")
    state = torch.load(folder / "deit.pth", weights_only=True)["model"]
    save_file(state, folder / "deit.safetensors")
    dynamic = Recipe(
        folder / "deit.pth", 0.7, precision="int8-dynamic", output=folder / "int8.onnx", batch=2
    )
    convert(dynamic)
    for exporter, opset in (("torchscript", 17), ("dynamo", 18)):
        export_foreign(folder / f"{exporter}.onnx", "evit", exporter, opset, None)
    _save_folder(folder / "hub", state)
    _save_engine(folder)
    _save_pictures(folder)
    return Samples(folder)


def _save_folder(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """As Hugging Face's libraries save a checkpoint in two files."""
    folder.mkdir()
    names = sorted(state)
    halves = {"1.safetensors": names[::2], "2.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: state[name] for name in held}, folder / file)
    places = {name: file for file, held in halves.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = {"num_attention_heads": 2, "image_size": SIDE, "id2label": {"0": "a", "1": "b"}}
    (folder / "config.json").write_text(json.dumps(settings))


def _save_engine(folder: Path) -> None:
    """An engine that is none, with a sidecar as `build` writes it."""
    content = b"ftrt\0" + bytes(200)
    (folder / "deit.engine").write_bytes(content)
    proto = onnx.load(str(folder / "deit.onnx"))
    facts = Sidecar(
        flavour="tensorrt-rtx",
        version="1.4.0.76",
        gpu=None,
        capabilities=("8.6",),
        precision="fp32",
        batches=("1:2:4",),
        input_shape=(3, SIDE, SIDE),
        engine_sha256=hashlib.sha256(content).hexdigest(),
        onnx_sha256=hashlib.sha256((folder / "deit.onnx").read_bytes()).hexdigest(),
        onnx="deit.onnx",
        options=dataclasses.replace(BuildOptions()),
        seconds=1.0,
        layers=(),
        properties={e.key: e.value for e in proto.metadata_props if e.key.startswith(PREFIX)},
    )
    Sidecar.path_beside(folder / "deit.engine").write_text(facts.to_json())


def _save_pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    drawn = np.random.default_rng(0).integers(0, 255, (16, 40, 36, 3), np.uint8)
    for number, kind in enumerate(("png", "jpg", "bmp", "webp", "gif", "tiff")):
        Image.fromarray(drawn[number]).save(folder / "pictures" / f"{number}.{kind}")
    labels = np.arange(16) % 10
    np.savez_compressed(folder / "pictures.npz", images=drawn, labels=labels)


def copy_sample(samples: Samples, name: str, folder: Path) -> Path:
    """A file or folder among them, copied."""
    source = samples.folder / name
    if source.is_dir():
        return Path(shutil.copytree(source, folder / name))
    return Path(shutil.copy(source, folder / name))
