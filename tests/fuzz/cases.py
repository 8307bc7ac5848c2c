"""One input: files in a folder, and the command that is given them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from fuzz.contents import (
    odd_arrays,
    odd_checkpoint,
    odd_hub,
    odd_pictures,
    odd_safetensors,
    odd_sidecar,
    write_arrays,
    write_checkpoint,
)
from fuzz.damage import ODD_NUMBERS, ODD_TEXTS, damage
from fuzz.graphs import odd_model
from fuzz.samples import Samples, copy_sample

GIVEN = "given"
"""The folder of a case that holds its input."""

Arguments = list[str]


def draw_case(samples: Samples, folder: Path, seed: int, number: int) -> Arguments:
    """Write the input of a number into ``folder/given``; the arguments to give dynexport."""
    random = Random(f"{seed}/{number}")
    given = folder / GIVEN
    given.mkdir()
    kinds, weights = zip(*KINDS.items(), strict=True)
    (kind,) = random.choices(kinds, weights)
    return kind(samples, given, random)


def _of_checkpoint(random: Random, path: Path) -> Arguments:
    """Commands that take a checkpoint; the slow ones seldom."""
    file = str(path)
    commands = (
        *[["inspect", file]] * 12,
        *[["inspect", file, "--json"]] * 3,
        ["convert", file, "--ratio", "0.7"],
        ["convert", file, "--dense", "--batch", "1"],
        ["verify", "given/deit.onnx", "--checkpoint", file],
        ["convert", file, "--images", "given/pictures.npz", "--strict"],
    )
    return random.choice(commands)


def _of_onnx(random: Random, path: Path) -> Arguments:
    """Commands that take an ONNX file."""
    file = str(path)
    commands = (
        *[["inspect", file]] * 3,
        *[["inspect", file, "--json"]] * 2,
        *[["check", file]] * 6,
        ["check", file, "--json"],
        *[["verify", file]] * 4,
        ["verify", file, "--backend", "openvino"],
        *[["optimize", file]] * 6,
        *[["visualize", file, "given/pictures.npz", "--count", "1"]] * 2,
        ["bench", file, "--no-pytorch", "--rounds", "1", "--round-seconds", "0.01"],
        ["build", file],
        ["convert", file],
    )
    return random.choice(commands)


def checkpoint_bytes(samples: Samples, given: Path, random: Random) -> Arguments:
    path = copy_sample(samples, random.choice(("deit.pth", "deit.safetensors")), given)
    path.write_bytes(damage(path.read_bytes(), random))
    _beside(samples, given)
    return _of_checkpoint(random, _here(path))


def checkpoint_content(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    if random.random() < 0.2:
        return _of_checkpoint(random, _here(odd_hub(samples, given, random)))
    if random.random() < 0.2:
        path = given / "odd.safetensors"
        path.write_bytes(odd_safetensors(samples.read("deit.safetensors"), random))
    else:
        path = given / f"odd.{random.choice(('pth', 'bin', 'ckpt'))}"
        write_checkpoint(path, odd_checkpoint(samples.checkpoint, random), random)
    return _of_checkpoint(random, _here(path))


def onnx_bytes(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    path = given / random.choice(sorted(samples.models))
    path.write_bytes(damage(samples.read(path.name), random))
    return _of_onnx(random, _here(path))


def onnx_content(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    (given / "x.data").write_bytes(bytes(5000))
    path = given / random.choice(("deit.onnx", "deit.onnx", *sorted(samples.models)))
    path.write_bytes(odd_model(samples.models[path.name], random).SerializeToString())
    return _of_onnx(random, _here(path))


def bundle_bytes(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    path = given / "deit.reference.npz"
    path.write_bytes(damage(path.read_bytes(), random))
    return _of_bundle(random)


def bundle_content(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    write_arrays(given / "deit.reference.npz", odd_arrays(samples.bundle, random))
    return _of_bundle(random)


def _of_bundle(random: Random) -> Arguments:
    onnx = "given/deit.onnx"
    bundle = "given/deit.reference.npz"
    commands = (
        *[["verify", onnx]] * 4,
        ["verify", onnx, "--json"],
        ["verify", "given/deit.onnx", "--reference", bundle],
        ["visualize", onnx, bundle],
        ["report", "given", "--no-bench", "-o", "page.html"],
    )
    return random.choice(commands)


def images_content(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    if random.random() < 0.5:
        return _of_images(random, odd_pictures(samples, given, random))
    import numpy as np

    path = given / "pictures.npz"
    with np.load(samples.folder / path.name) as arrays:
        write_arrays(path, odd_arrays(dict(arrays), random))
    return _of_images(random, path)


def images_bytes(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    path = given / "pictures.npz"
    path.write_bytes(damage(path.read_bytes(), random))
    return _of_images(random, path)


def _of_images(random: Random, path: Path) -> Arguments:
    images = str(_here(path))
    copy = ["given/deit.onnx", images]
    commands = (
        *[["visualize", *copy]] * 4,
        *[["verify", copy[0], "--data", images]] * 4,
        ["optimize", "given/dynamo.onnx", "--images", images],
        ["convert", "given/deit.pth", "--images", images],
        ["convert", "given/deit.pth", "--precision", "int8", "--calibration-data", images],
    )
    chosen = random.choice(commands)
    if "given/dynamo.onnx" in chosen:
        chosen = ["inspect", images]
    return chosen


def engine_files(samples: Samples, given: Path, random: Random) -> Arguments:
    _beside(samples, given)
    engine, sidecar = (copy_sample(samples, n, given) for n in ("deit.engine", "deit.engine.json"))
    action = random.randrange(3)
    if action == 0:
        sidecar.write_bytes(damage(sidecar.read_bytes(), random))
    elif action == 1:
        text = odd_sidecar(sidecar.read_text(), random)
        sidecar.write_text(text, encoding="utf-8", errors="replace")
    else:
        engine.write_bytes(damage(engine.read_bytes(), random))
    file = "given/deit.engine"
    commands = (
        ["inspect", file],
        ["inspect", file, "--json"],
        ["inspect", "given/deit.engine.json"],
        ["verify", "--engine", file],
        ["verify", "given/deit.onnx", "--engine", file, "--trust"],
        ["bench", "--engine", file],
        ["visualize", "given/deit.onnx", "given/pictures.npz", "--engine", file],
    )
    return random.choice(commands)


def places(samples: Samples, given: Path, random: Random) -> Arguments:
    """A file of one kind, or no file at all, where another is expected."""
    _beside(samples, given)
    import os

    os.mkfifo(given / "pipe")
    (given / "circle").symlink_to("circle")
    (given / "empty.onnx").touch()
    (given / "empty.pth").touch()
    there = [str(_here(path)) for path in sorted(given.iterdir())]
    nowhere = ["/dev/zero", "/dev/null", ".", "", "x" * 300, "é.onnx"]
    file = random.choice([*there, *nowhere])
    command = random.choice((_of_checkpoint, _of_onnx))(random, Path(file or "given"))
    if random.random() < 0.3:
        command = random.choice(
            (
                ["verify", "given/deit.onnx", "--reference", file],
                ["verify", "given/deit.onnx", "--data", file],
                ["verify", "given/deit.onnx", "--engine", file],
                ["visualize", "given/deit.onnx", file],
                ["visualize", "given/deit.onnx", "given/pictures.npz", "--labels", file],
                ["visualize", "given/deit.onnx", "given/pictures.npz", "--font", file],
                ["visualize", "given/deit.onnx", "given/pictures.npz", "-o", file],
                ["convert", "given/deit.pth", "-o", file],
                ["convert", "given/deit.pth", "--plugin", file],
                ["optimize", "given/deit.onnx", "-o", file],
                ["report", file],
            )
        )
    return command


NUMBERS = tuple(map(str, ODD_NUMBERS))
SETTINGS = (
    *NUMBERS,
    *(text for text in ODD_TEXTS if "\0" not in text),
    *("nan", "inf", "-inf", "1e999", "0x10", "1_0", "1,2,3", "1:8:64", "8:1", "0.5,0.5,0.5", "٣"),
    *("fp16", "int8", "int8-dynamic", "auto", "onnxruntime", "given", "given/deit.onnx", "1:2:3"),
)
"""What an option may be given."""

FIRST: dict[str, Sequence[str]] = {
    "convert": ("given/deit.pth",),
    "verify": ("given/deit.onnx",),
    "check": ("given/deit.onnx",),
    "optimize": ("given/dynamo.onnx",),
    "build": ("given/deit.onnx",),
    "bench": ("given/deit.onnx", "--no-pytorch", "--rounds", "1", "--round-seconds", "0.01"),
    "visualize": ("given/deit.onnx", "given/pictures.npz"),
    "sweep": ("given/deit.pth",),
    "report": ("given", "--no-bench"),
    "inspect": ("given/deit.pth",),
    "models": (),
}
"""What each command is given before the options."""

HARMLESS = ("help", "verbose", "plugin")
"""Options that are not tried: they print, or run what they are given."""


def settings(samples: Samples, given: Path, random: Random) -> Arguments:
    """Options with values that nobody would give them."""
    from typer.main import get_command

    from dynexport.cli import app

    _beside(samples, given)
    shutil.copy(samples.folder / "dynamo.onnx", given)
    name = random.choice(list(FIRST))
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    words = [name, *FIRST[name]]
    options = [one for one in command.params if one.opts[0].startswith("--")]
    for option in random.choices([one for one in options if one.name not in HARMLESS], k=2):
        words.append(option.opts[-1])
        if not option.is_flag:
            words.append(random.choice(SETTINGS))
    return words


def _beside(samples: Samples, given: Path) -> None:
    """What other commands need as well."""
    for name in ("deit.onnx", "deit.reference.npz", "deit.pth", "pictures.npz"):
        shutil.copy(samples.folder / name, given)


def _here(path: Path) -> Path:
    """As seen from the folder of the case, which is the working folder."""
    return Path(GIVEN, path.name) if path.parent.name == GIVEN else Path(GIVEN, *path.parts[-2:])


KINDS: dict[Callable[[Samples, Path, Random], Arguments], int] = {
    checkpoint_bytes: 12,
    checkpoint_content: 16,
    onnx_bytes: 14,
    onnx_content: 30,
    bundle_bytes: 3,
    bundle_content: 7,
    images_bytes: 2,
    images_content: 4,
    engine_files: 6,
    places: 3,
    settings: 5,
}
"""How an input is made, and how often of a hundred."""
