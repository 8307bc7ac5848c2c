"""The command line: each command parses, calls one function and prints its result."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dynexport import __version__
from dynexport.errors import DynexportError, InputError

app = typer.Typer(
    help="Deploy dynamically sparse vision models: convert a checkpoint to a lean, verified ONNX "
    "file, and measure it beside its dense twin.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
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
        help="Runtime to use: onnxruntime (default), onnxruntime-cuda, onnxruntime-tensorrt, "
        "openvino or openvino-bf16."
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(metavar="MODEL.engine", help="The TensorRT engine built from the file."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open an engine whatever its sidecar says: it is code.")
]


def _version(asked: bool) -> None:
    if asked:
        print(f"dynexport {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", show_default=False, help=".pth .pt .tar .safetensors")
    ],
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Base keep ratio in (0, 1], spread over the stages by the family's "
            "schedule. Default: what the checkpoint was trained with."
        ),
    ] = None,
    ratios: Annotated[
        str | None, typer.Option(metavar="R,R,R", help="Keep ratio of each stage instead.")
    ] = None,
    align: Annotated[
        int,
        typer.Option(
            help="Keep a few tokens more, so that blocks compute a multiple of so many rows, the "
            "class token's included."
        ),
    ] = 1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.onnx", help="File to write.")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Batch size, or smallest:optimal:largest, as in 1:8:64.")
    ] = "8",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images, or .npz, to record PyTorch's answers on."),
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Export the twin that drops nothing.")] = (
        False
    ),
    emit_kept: Annotated[
        bool, typer.Option("--emit-kept", help="Add outputs kept_0 ...: positions kept.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Published variant, where tensors do not tell: deit-s ...")
    ] = None,
    prune_at: Annotated[
        str | None, typer.Option(metavar="B,B,B", help="Blocks the sparsifiers stand before.")
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(help="Attention heads, where not 64 channels each.")
    ] = None,
    img_size: Annotated[
        int | None, typer.Option(help="Another image size than it was trained at, pixels.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classify (default), or features: the maps of a Swin's or a ConvNeXt's four "
            "stages, feat_0 ... feat_3."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Which weights of the file: model or model_ema.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Of weights and activations: fp32, fp16, bf16, int8, int8-fp16 (the rest in "
            "fp16, for GPUs) or int8-dynamic (for CPUs)."
        ),
    ] = "fp32",
    io_precision: Annotated[
        str, typer.Option(help="Of inputs and outputs: fp32, or half with fp16 and int8-fp16.")
    ] = "fp32",
    calibration_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ",
            help="Images that int8 takes its ranges from, and fp16 looks on for values too large.",
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="How many of them to use, at most.")
    ] = 512,
    calibration_method: Annotated[
        str | None,
        typer.Option(
            metavar="M,M",
            help="min-max, percentile, entropy, mse. Default: for each layer, what errs least on "
            "images held out.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw the calibration images at random. Default: evenly spread."),
    ] = None,
    fallback_to: Annotated[
        str | None,
        typer.Option(
            metavar="auto",
            help="auto: rank layers by the harm of int8, and raise the worst back to float until "
            "--target-agreement is met.",
        ),
    ] = None,
    target_agreement: Annotated[
        float, typer.Option(help="Share of images held out whose class must stay.")
    ] = 0.99,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="TENSORRT",
            help="Build an engine as well: tensorrt, tensorrt-rtx, or auto for what is installed.",
        ),
    ] = None,
    plugin: Plugins = None,
    opset: Annotated[int, typer.Option(help="ONNX opset, 20 or later.")] = 20,
    target: Annotated[
        str, typer.Option(help="any runtime, or tensorrt: standard operators alone.")
    ] = "any",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint into a verified ONNX file and its reference bundle."""
    from dynexport.calibration import METHODS
    from dynexport.console import build_progress, print_json, show_warning
    from dynexport.pipeline import convert as run
    from dynexport.precision import Precision
    from dynexport.show import show_conversion

    with build_progress(quiet) as (on_step, on_progress):
        result = run(
            checkpoint,
            ratio=ratio,
            ratios=ratios,
            align=align,
            dense=dense,
            model=model,
            prune_at=_numbers("--prune-at", prune_at),
            num_heads=num_heads,
            img_size=img_size,
            task=task,
            weights=weights,
            batch=batch,
            images=images,
            emit_kept=emit_kept,
            opset=opset,
            target=target,
            precision=Precision(
                precision,
                io=io_precision,
                calibration_data=calibration_data,
                calibration_images=calibration_images,
                seed=seed,
                methods=tuple(calibration_method.split(",")) if calibration_method else METHODS,
                fallback_to=fallback_to,
                target_agreement=target_agreement,
            ),
            engine=engine,
            output=output,
            plugins=plugin or (),
            on_step=on_step,
            on_warning=show_warning,
            on_progress=on_progress,
        )
    (print_json if json else show_conversion)(result)


@app.command()
def verify(
    model: OnnxFile,
    reference: Annotated[
        Path | None,
        typer.Option(help="Reference bundle. Default: the .reference.npz beside the model."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Ask PyTorch afresh, from this checkpoint.")
    ] = None,
    plugin: Plugins = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Accepted error of outputs with the same tokens kept, relative to the largest (at "
            "least 1), of int8 to an answer's length. Default: by precision, 1e-4 for fp32."
        ),
    ] = None,
    tie_margin: Annotated[
        float | None,
        typer.Option(
            help="How close to the cut two scores may change places, relative to the largest (at "
            "least 1). Default: by precision, 1e-4 for fp32."
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Fail where fewer images are given PyTorch's class, as in 0.99."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ",
            help="Measure accuracy on these images: a folder for each class, or labels in an .npz.",
        ),
    ] = None,
    data_images: Annotated[
        int | None, typer.Option(help="How many of them, evenly spread. Default: all.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Fail where more points of accuracy are lost against PyTorch, as in 0.5.",
        ),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Name the first node that departs (needs --checkpoint)."),
    ] = False,
    backend: Backend = None,
    engine: Engine = None,
    trust: Trust = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare an ONNX file with PyTorch's recorded answers; exit 1 where they differ."""
    from dynexport.console import print_json, progress
    from dynexport.pipeline import verify_model
    from dynexport.show import show_verification

    with progress(quiet) as on_step:
        on_step(f"verify {engine or model}")
        result = verify_model(
            model,
            reference=reference,
            checkpoint=checkpoint,
            backend=backend,
            engine=engine,
            trust=trust,
            tolerance=tolerance,
            tie_margin=tie_margin,
            min_agreement=min_agreement,
            max_drop=max_drop,
            data=data,
            data_images=data_images,
            bisect=bisect,
            plugins=plugin or (),
            on_step=on_step,
        )
    (print_json if json else show_verification)(result)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def check(
    model: OnnxFile,
    backend: Annotated[
        str, typer.Option(help="tensorrt, tensorrt-rtx, or auto: the first that can parse here.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Tell what TensorRT will make of an ONNX file, whoever wrote it; exit 1 where it refuses."""
    from dynexport.console import print_json
    from dynexport.preflight import check_model
    from dynexport.show import show_preflight

    result = check_model(model, backend=backend)
    (print_json if json else show_preflight)(result)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def optimize(
    model: OnnxFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="LEAN.onnx", help="File to write. Default: MODEL-lean.onnx."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ", help="Images to compare outputs on. Default: synthetic ones."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Accepted error of outputs, relative to the largest (at least 1). Default: by "
            "precision, 1e-4 for fp32."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an ONNX file of a token-pruning model lean, whoever exported it; outputs stay."""
    from dynexport.console import print_json, progress
    from dynexport.optimize import optimize_model
    from dynexport.show import show_optimization

    with progress(quiet) as on_step:
        result = optimize_model(model, output, images=images, tolerance=tolerance, on_step=on_step)
    (print_json if json else show_optimization)(result)


@app.command()
def build(
    model: OnnxFile,
    backend: Annotated[
        str, typer.Option(help="tensorrt, tensorrt-rtx, or auto: the first that is installed.")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.engine", help="File to write.")
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch size, or smallest:optimal:largest; repeated for several profiles. "
            "Default: what the file was made for."
        ),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="Memory a layer may use, MiB.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0, fast to build, to 5, fast to run.")
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let float32 products round their factors to TF32.")
    ] = False,
    compute_capability: Annotated[
        str | None,
        typer.Option(metavar="8.6,8.9", help="GPUs to build for (tensorrt-rtx). Default: all."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run in later versions too (tensorrt).")
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option("--hardware-compatible", help="Run on any GPU from Ampere on (tensorrt)."),
    ] = False,
    dla_core: Annotated[
        int | None, typer.Option(help="DLA core of a Jetson; the GPU takes what it cannot.")
    ] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be exchanged later.")] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out, to be refitted.")
    ] = False,
    timing_cache: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Measurements to reuse (tensorrt), or none. Default: a cached one."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT engine of an ONNX file, and the sidecar that says what it is."""
    from dynexport.backends.tensorrt.options import BuildOptions
    from dynexport.console import build_progress, print_json
    from dynexport.engine import build_engine
    from dynexport.show import show_build

    options = BuildOptions(
        workspace_mib=workspace,
        optimization_level=optimization_level,
        tf32=tf32,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        compute_capabilities=tuple((compute_capability or "").replace(" ", "").split(","))
        if compute_capability
        else (),
        dla_core=dla_core,
        refit=refit,
        strip_weights=strip_weights,
        timing_cache=timing_cache,
    )
    with build_progress(quiet) as (on_step, on_progress):
        result = build_engine(
            model,
            backend=backend,
            batches=batch or (),
            options=options,
            output=output,
            on_step=on_step,
            on_progress=on_progress,
        )
    (print_json if json else show_build)(result)


@app.command()
def bench(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL.onnx]", show_default=False)
    ] = None,
    engine: Engine = None,
    trust: Trust = False,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="B,B", help="Batch sizes. Default: the file's own; 1,8,32,64 on a GPU."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Runtimes of the ONNX file: onnxruntime (default), onnxruntime-cuda, "
            "onnxruntime-tensorrt, openvino, openvino-bf16.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Cores to use. Default: each runtime's choice.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; in each, every candidate runs once.")] = 10,
    round_seconds: Annotated[float, typer.Option(help="Seconds each candidate runs a round.")] = (
        0.5
    ),
    profile: Annotated[
        bool, typer.Option("--profile", help="Time attention, MLP, predictor, gathers as well.")
    ] = False,
    plugin: Plugins = None,
    pytorch: Annotated[bool, typer.Option(help="Time PyTorch as well.")] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time an ONNX file or an engine, its dense twin and PyTorch, each in its own process."""
    from dynexport.bench import bench_model
    from dynexport.console import print_json, progress
    from dynexport.show import show_bench
    from dynexport.timing import Plan

    with progress(quiet) as on_step:
        result = bench_model(
            model,
            engine=engine,
            trust=trust,
            batches=_numbers("--batch", batch) or (),
            backends=tuple(backend.split(",")) if backend else (),
            threads=threads,
            pytorch=pytorch,
            profile=profile,
            plugins=plugin or (),
            plan=Plan(rounds=rounds, round_seconds=round_seconds),
            on_step=on_step,
        )
    (print_json if json else show_bench)(result)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Tell what a checkpoint, an ONNX file or an engine is."""
    from dynexport.console import print_json
    from dynexport.inspection import inspect_file
    from dynexport.show import show_facts

    facts = inspect_file(file, plugins=plugin or ())
    (print_json if json else show_facts)(facts)


@app.command()
def models(plugin: Plugins = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the published variants: size, multiply-accumulates by keep ratio, accuracy."""
    from dynexport.console import print_json, progress
    from dynexport.inspection import list_models
    from dynexport.show import show_models

    with progress(quiet) as on_step:
        rows = list_models(on_step, plugins=plugin or ())
    (print_json if json else show_models)(rows)


@app.command()
def doctor(json: Json = False) -> None:
    """Tell what is installed, what works, and what is missing; exit 1 where it cannot work."""
    from dynexport.console import print_json
    from dynexport.doctor import examine
    from dynexport.show import show_diagnosis

    found = examine()
    (print_json if json else show_diagnosis)(found)
    if not found.healthy:
        raise typer.Exit(1)


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} is no list of numbers: write it as 3,6,9") from None


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every expected error is one sentence on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that drafts are removed
    gc.set_threshold(100_000, 5, 5)  # importing and tracing make a million objects that all stay:
    atexit.register(gc.freeze)  # looking for garbage among them takes a tenth of `convert`
    try:
        app(arguments, standalone_mode=True)
    except DynexportError as error:
        from dynexport.console import show_error

        show_error(str(error))
        sys.exit(error.exit_code)
    raise AssertionError("unreachable: a standalone app exits by itself")
