"""What kind of file lies somewhere, by its content.

One that is given in another's place is called what it is, and not damaged.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from zipfile import BadZipFile, ZipFile, is_zipfile

CHECKPOINT = "a checkpoint"
SCRIPT = "a TorchScript program"
PROGRAM = "an exported PyTorch program"
INDEX = "the index of a checkpoint in several files"
ONNX = "an ONNX file"
BUNDLE = "a reference bundle"
ARRAYS = "an .npz of arrays"
ARRAY = "a single array"
ARCHIVE = "a zip archive"
PACKED = "a packed archive"
ENGINE = "a TensorRT engine"
SIDECAR = "the sidecar of an engine"
JSON = "a JSON file"
PICTURE = "a picture"
PAGE = "a web page"
POINTER = "a Git LFS pointer"

HEAD = 4096
"""Bytes of a file that are looked at, unless it is a zip."""

ZIP = b"PK\x03\x04"

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of ``torch.save`` began before they were zips: a pickle of this number alone."""

BEGINNINGS: tuple[tuple[str, bytes], ...] = (
    (CHECKPOINT, rb"PK\x03\x04.{26}[^/]*/data\.pkl"),  # as torch.save names a zip's first entry
    (CHECKPOINT, re.escape(LEGACY)),
    (CHECKPOINT, rb'.{4}\0{4}\{"'),  # safetensors: the length of a JSON object, and the object
    (ARRAYS, rb"PK\x03\x04.{26}[^\0]*?\.npy"),
    (ARRAY, rb"\x93NUMPY"),
    # its version, a small number, and another of a ModelProto's fields
    (ONNX, rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]"),
    (ENGINE, rb"[fpv]trt\0"),
    (SIDECAR, rb'\s*\{.*"engine_sha256"'),
    (INDEX, rb'\s*\{.*"weight_map"'),
    (JSON, rb'\s*\{\s*"'),
    (PICTURE, rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|BM.{4}\0{4}|RIFF.{4}WEBP|II\*\0|MM\0\*"),
    (PAGE, rb"\s*<(!doctype html|html)"),
    (POINTER, rb"version https://git-lfs"),
    (PACKED, rb"\x1f\x8b\x08|\xfd7zXZ\0|BZh\d|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar"),
)
"""How files of a kind begin; the first that fits is taken."""

ENTRIES: tuple[tuple[str, str], ...] = (
    (SCRIPT, r".*/constants\.pkl"),
    (PROGRAM, r"(.*/models/\w+|serialized_exported_program)\.json"),
    (CHECKPOINT, r".*/data\.pkl"),
    (BUNDLE, r"(facts|output:.*|kept_\d+|scores_\d+)\.npy"),
    (ARRAYS, r".*\.npy"),
    (ARCHIVE, r".*"),
)
"""What a zip of a kind holds; the first that fits is taken."""

WEIGHTS = "save its weights, torch.save({'model': model.state_dict()}, path), and give that file"

ADVICE: dict[str, str] = {
    SCRIPT: "`convert` reads the weights of a TorchScript archive",
    PROGRAM: WEIGHTS,
    INDEX: "`convert` reads it, and the files that it lists",
    BUNDLE: "`verify` finds it beside its .onnx, or takes it as `reference`",
    ENGINE: "an engine is given as `engine`, and stands beside the .onnx it was built from",
    SIDECAR: "give the engine that it stands beside, or its .onnx",
    PAGE: "a server gave it in place of the file; download that again",
    PACKED: "unpack it, and give what is inside",
    ARCHIVE: "unpack it, and give what is inside",
    POINTER: "run  git lfs pull  where it was cloned, which brings the file itself",
}
"""What to do with a file of a kind that was given in another's place."""

WANTED: dict[str, str] = {
    CHECKPOINT: "give a .pth, .pt, .tar or .safetensors",
    ONNX: "give an .onnx",
    BUNDLE: "give the .reference.npz that `convert` wrote beside the .onnx",
    ENGINE: "give the .engine that `build` wrote",
    PICTURE: "give pictures, folders of them or an .npz",
}
"""What to do where the kind that was given has no advice of its own."""


def kind_of(path: Path) -> str | None:
    """The kind of a file; None for one that is of no known kind, or damaged."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    names = _entries(path, head)
    for kind, pattern in ENTRIES:
        if any(re.fullmatch(pattern, name) for name in names):
            return kind
    for kind, beginning in BEGINNINGS:
        if re.match(beginning, head, re.DOTALL | re.IGNORECASE):
            return kind
    return None


FOLDER = (
    *("model.safetensors.index.json", "model.safetensors"),
    *("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
"""What Hugging Face's libraries keep a model's weights in, the preferred first."""

WHOLE = "mp_rank_00_model_states.pt"
"""What DeepSpeed keeps a model in that lies whole on each rank."""


def weights_in(folder: Path) -> Path | None:
    """The weights in a folder of Hugging Face's or DeepSpeed's; None where it is none."""
    if not os.path.isdir(folder):  # unlike Path's, it is False of a name that no file can have
        return None
    latest = folder / "latest"
    step = latest.read_text(errors="replace").strip() if latest.is_file() else "."
    there = (*(folder / name for name in FOLDER), folder / step / WHOLE)
    return next((file for file in there if file.is_file()), None)


def is_distributed(folder: Path) -> bool:
    """Whether a folder holds pieces of tensors, as torch.distributed.checkpoint saves them."""
    return (folder / ".metadata").is_file() and any(folder.glob("*.distcp"))


def other_kind(path: Path, expected: str) -> str | None:
    """A sentence on a file that is of another kind than the one expected.

    None for one that is of that kind, or of none that is known.
    """
    found = kind_of(path)
    if found is None or found == expected:
        return None
    if expected == BUNDLE and (found == ARRAY or (found == ARRAYS and not is_zipfile(path))):
        return None  # a bundle that was cut short
    if (found, expected) == (CHECKPOINT, ONNX):
        advice = (
            f"run  dynexport convert {shlex.quote(str(path))}  first, and give the .onnx that it "
            "writes"
        )
    elif (found, expected) == (ONNX, CHECKPOINT):
        advice = "give the checkpoint it was made from; dynexport optimize takes ONNX files"
    else:
        advice = ADVICE.get(found) or WANTED.get(expected, f"give {expected}")
    return f"{path} is {found}, not {expected}: {advice}"


def _entries(path: Path, head: bytes) -> list[str]:
    """Names in a zip; none of a file that is no zip, or was cut short: its beginning tells."""
    if not head.startswith(ZIP):
        return []
    try:
        with ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, RuntimeError, BadZipFile):  # RuntimeError: of a later version
        return []
