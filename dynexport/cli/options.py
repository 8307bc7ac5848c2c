"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from dynexport.cli.choices import BACKENDS, EDITIONS, MODELS, WEIGHTS, complete, one_of
from dynexport.cli.console import show_warning
from dynexport.errors import InputError
from dynexport.progress import let_through

KEPT = "How much is kept"
MODEL = "What is converted"
PICTURES = "How pictures were prepared"
PRECISION = "Precision"
WRITTEN = "What is written"
ORIGINAL = "What it is compared with"
LIMITS = "What may differ"
ACCURACY = "Accuracy"
RUNTIME = "Where it runs"
TIMING = "Timing"
"""Groups of options, as a terminal shows `--help`; what goes with every command is in none."""


def _let_through(verbose: bool) -> bool:
    let_through(verbose)
    return verbose


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=_let_through,
        help="Tell each step's seconds, what libraries warn of, and where a fault came from.",
    ),
]
Checkpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", show_default=False, help=".pth .pt .tar .safetensors")
]
CalibrationData = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|NPZ",
        help="Images that int8 takes its ranges from, and fp16 looks on for values too large.",
        rich_help_panel=PRECISION,
    ),
]
CalibrationImages = Annotated[
    int, typer.Option(help="How many of them to use, at most.", rich_help_panel=PRECISION)
]
Model = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete(MODELS),
        help="Published variant, where tensors do not tell: deit-s ...",
        rich_help_panel=MODEL,
    ),
]
PruneAt = Annotated[
    str | None,
    typer.Option(
        metavar="B,B,B", help="Blocks the sparsifiers stand before.", rich_help_panel=MODEL
    ),
]
NumHeads = Annotated[
    int | None,
    typer.Option(help="Attention heads, where not 64 channels each.", rich_help_panel=MODEL),
]
Expect = Annotated[
    Path | None,
    typer.Option(
        metavar="NPZ",
        help="What your own model answered, images and logits: other answers are refused.",
        rich_help_panel=ORIGINAL,
    ),
]
ImgSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Another image size than it was trained at, pixels: 224, or HEIGHTxWIDTH, 224x448.",
        rich_help_panel=MODEL,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M,M,M",
        help="Mean of each channel of pictures in training, from 0 to 1, or one for all.",
        rich_help_panel=PICTURES,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="S,S,S", help="Their standard deviation, likewise.", rich_help_panel=PICTURES
    ),
]
CropPct = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the resized picture, a side, whose centre is cut out: 0.875.",
        rich_help_panel=PICTURES,
    ),
]
Warp = Annotated[
    bool,
    typer.Option(
        "--warp",
        help="Stretch pictures to the input's shape; without --crop-pct nothing is cut away.",
        rich_help_panel=PICTURES,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete(WEIGHTS),
        help="Which weights of several in the file, by their place: model_ema, state_dict.student.",
        rich_help_panel=MODEL,
    ),
]
OnnxFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False)]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A file that defines a family of your own; its code runs. May be repeated.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete(BACKENDS),
        help=f"Runtime to use: {one_of(BACKENDS, 'onnxruntime')}.",
        rich_help_panel=RUNTIME,
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL.engine",
        help="The TensorRT engine built from the file.",
        rich_help_panel=RUNTIME,
    ),
]


def _edition(group: str | None = None) -> Any:
    """The option, in a group where its command has some."""
    return typer.Option(
        "--edition",
        autocompletion=complete(EDITIONS),
        help=f"Edition of TensorRT: {', '.join(EDITIONS[:-1])}, or auto: the first that is "
        "installed.",
        rich_help_panel=group,
    )


Edition = Annotated[str, _edition()]
BuildEdition = Annotated[str | None, _edition(WRITTEN)]
OldEdition = Annotated[str | None, typer.Option("--backend", hidden=True)]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Open an engine whatever its sidecar says: it is code.",
        rich_help_panel=RUNTIME,
    ),
]


def edition_of(edition: str, old: str | None) -> str:
    """The edition of TensorRT asked for, by ``--edition`` or as it used to be, by ``--backend``."""
    if old is None:
        return edition
    _tell_new_spelling(f"--backend {old}", f"--edition {old}")
    return old


def engine_and_edition(engine: str | None, edition: str | None) -> tuple[str | None, str | None]:
    """Where `convert` writes an engine, and the edition of TensorRT that builds it.

    The edition used to be told by ``--engine``.
    """
    if engine not in EDITIONS:
        return engine, edition
    _tell_new_spelling(f"--engine {engine}", f"--edition {engine}")
    return None, engine


def _tell_new_spelling(old: str, new: str) -> None:
    from dynexport.cli.console import show_note

    show_note(f"note: {old} is spelt {new} now; the old spelling goes on working")


def parse_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Numbers between commas, as `3,6,9`; None where the option was not given."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} is no list of numbers: write it as 3,6,9") from None


def told_of_pictures(
    mean: str | None, std: str | None, crop_pct: float | None, warp: bool
) -> dict[str, Any]:
    """What a `Recipe` takes of how pictures were prepared, by name."""
    scales = {"mean": _parse_scale("--mean", mean), "std": _parse_scale("--std", std)}
    return {**scales, "crop_pct": crop_pct, "warp": warp}


def _parse_scale(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {text!r} is no list of numbers: write it as 0.485,0.456,0.406"
        ) from None


def parse_latency(text: str) -> float:
    """``12ms``, ``0.012s`` or ``12``, in milliseconds."""
    number = text.strip().lower()
    scale = 1.0
    if number.endswith("ms"):
        number = number[:-2]
    elif number.endswith("s"):
        number, scale = number[:-1], 1000.0
    try:
        return scale * float(number)
    except ValueError:
        raise InputError(f"--target-latency {text!r} is no time: write it as 12ms") from None


def warn(sentence: str) -> None:
    """A warning of the library, told as the command line tells it."""
    show_warning(as_options(sentence))


def as_options(sentence: str) -> str:
    """The sentence for the command line.

    An error of the library names parameters, as `num_heads` or `pytorch=False`; here they are
    called as their options are, --num-heads and --no-pytorch.
    """
    from dynexport.cli import app

    flags = {}
    for command in vars(typer.main.get_command(app))["commands"].values():
        for parameter in command.params:
            flag = max(parameter.opts, key=len)
            if flag.startswith("--"):
                flags[parameter.name] = flags[_plural(str(parameter.name))] = flag
            for opposite in parameter.secondary_opts:
                flags[f"{parameter.name}=False"] = opposite
    return re.sub(r"`(\w+(?:=False)?)`", lambda found: flags.get(found[1], found[0]), sentence)


def _plural(name: str) -> str:
    """What the library calls a parameter that the command line takes one by one."""
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return name + ("es" if name.endswith("ch") else "s")
