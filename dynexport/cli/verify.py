"""`dynexport verify`: an ONNX file or an engine beside PyTorch's recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli.console import print_json, progress, stdout
from dynexport.cli.options import (
    ACCURACY,
    LIMITS,
    ORIGINAL,
    Backend,
    Engine,
    Expect,
    Json,
    OnnxFile,
    Plugins,
    Quiet,
    Trust,
    Verbose,
    as_options,
)

if TYPE_CHECKING:
    from rich.console import Console

    from dynexport.compare.expected import Fit
    from dynexport.compare.numbers import Agreement, Errors
    from dynexport.compare.tolerances import Tolerances
    from dynexport.verify import Verification
    from dynexport.verify.accuracy import Accuracy
    from dynexport.verify.bisect import Bisection


def verify(
    model: OnnxFile,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Reference bundle. Default: the .reference.npz beside the model.",
            rich_help_panel=ORIGINAL,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Ask PyTorch afresh, from this checkpoint.", rich_help_panel=ORIGINAL),
    ] = None,
    expect: Expect = None,
    plugin: Plugins = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Accepted error of outputs with the same tokens kept, relative to the largest (at "
            "least 1), of int8 to an answer's length. Default: by precision, 1e-4 for fp32.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    tie_margin: Annotated[
        float | None,
        typer.Option(
            help="How close to the cut two scores may change places, relative to the largest (at "
            "least 1). Default: by precision, 1e-4 for fp32.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Fail where fewer images are given PyTorch's class, as in 0.99.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ",
            help="Measure accuracy on these images: a folder for each class, or labels in an .npz.",
            rich_help_panel=ACCURACY,
        ),
    ] = None,
    data_images: Annotated[
        int | None,
        typer.Option(
            help="How many of them, evenly spread. Default: all.", rich_help_panel=ACCURACY
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Fail where more points of accuracy are lost against PyTorch, as in 0.5.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Name the first node that departs (needs --checkpoint).",
            rich_help_panel=ORIGINAL,
        ),
    ] = False,
    backend: Backend = None,
    engine: Engine = None,
    trust: Trust = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare an ONNX file with PyTorch's recorded answers; exit 1 where they differ."""
    from dynexport.verify import Limits, verify_model

    with progress(quiet, verbose) as on_step:
        on_step(f"verify {engine or model}")
        result = verify_model(
            model,
            reference=reference,
            checkpoint=checkpoint,
            backend=backend,
            engine=engine,
            trust=trust,
            limits=Limits(tolerance, tie_margin, min_agreement, max_drop),
            data=data,
            data_images=data_images,
            expect=expect,
            bisect=bisect,
            plugins=plugin or (),
            on_step=on_step,
        )
    (print_json if json else show_verification)(result)
    if not result.passed:
        raise typer.Exit(1)


def show_verification(result: Verification) -> None:
    """Passed or failed, and by how much."""
    console = stdout()
    verdict = "[green]verified[/]" if result.passed else "[red]NOT verified[/]"
    sizes = ", ".join(map(str, result.batch_sizes))
    replayed = result.images_run - result.images
    how = {
        "pytorch": f" ({replayed} of them with its tokens replayed in PyTorch)",
        "candidate": f" ({replayed} of them with PyTorch's tokens replayed in it)",
    }.get(result.replayed_in, "")
    console.print(
        f"{verdict} with {result.backend} on {result.images_run} images{how}, batch {sizes}:"
    )
    for name, errors in result.errors.items():
        shares = _agreement(result.agreement[name])
        console.print(f"{escape(name)}: {_error(errors, result.tolerances)}{shares}")
    if result.stages:
        _print_selection(console, result)
    if result.own is not None and result.tolerances.own is not None:
        for name, errors in result.own.errors.items():
            error, allowed = errors.held_to(result.tolerances.own)
            console.print(
                f"{escape(name)} beside its own when it was made: error {error:.1e} of its length "
                f"({allowed:.1e} allowed)"
            )
    if result.expected is not None:
        console.print(describe_fit(result.expected))
    if result.accuracy is not None:
        console.print(_accuracy(result.accuracy))
    for failure in result.failures:
        console.print(f"[red]failed:[/] {escape(as_options(failure))}")
    if result.bisection is not None:
        _print_bisection(console, result.bisection)


def _error(errors: Errors, tolerances: Tolerances) -> str:
    """Numeric error under one choice of tokens, and what is allowed."""
    spread = (
        f"max {errors.max_abs:.1e}, mean {errors.mean_abs:.1e} on values up to {errors.scale:.3g}"
    )
    error, allowed = errors.held_to(tolerances)
    if tolerances.measure == "l2":
        return f"error {error:.1e} of its length ({allowed:.1e} allowed), {spread}"
    return f"error {spread} ({allowed:.1e} allowed)"


def describe_fit(fit: Fit) -> str:
    """Beside what the user's own model answered."""
    ties = "" if fit.settled == fit.images else f", {fit.images - fit.settled} of them with ties"
    return (
        f"beside your own model's answers on {fit.images} images{ties}: error {fit.error:.1e} of "
        f"the largest value; cosine {fit.cosine:.6f}"
    )


def _agreement(found: Agreement | None) -> str:
    """What a user gets of an output, beside PyTorch's."""
    if found is None:
        return ""
    shares = (("top-1", found.top1), ("top-5", found.top5))
    return f"; cosine {found.cosine:.6f}" + "".join(
        [
            *(f"; {name} agrees {share:.1%}" for name, share in shares if share is not None),
            "" if found.kl is None else f"; divergence {found.kl:.1e}",
        ]
    )


def _print_selection(console: Console, result: Verification) -> None:
    """Kept sets, from the same tokens and running freely."""
    shared, free = (
        ", ".join(f"{share:.1%}" for share in shares)
        for shares in zip(*((s.overlap, s.free_overlap) for s in result.stages), strict=True)
    )
    ties = sum(stage.ties for stage in result.stages)
    console.print(
        f"kept sets agree {shared} ({ties} tokens swapped by ties, within "
        f"{result.tolerances.tie_margin:.0e} of the cut)"
        + ("" if shared == free else f"; running freely {free}")
    )


def _accuracy(found: Accuracy) -> str:
    """On images of the user's."""
    ours = [(found.top1, "top-1"), (found.top5, "top-5")]
    theirs = [(found.pytorch_top1, "top-1"), (found.pytorch_top5, "top-5")]
    told = [
        label + ", ".join(f"{name} {share:.2%}" for share, name in shares if share is not None)
        for label, shares in (("accuracy ", ours), ("PyTorch's ", theirs))
        if shares[0][0] is not None
    ]
    if found.agreement is not None:
        told.append(f"the same class as PyTorch {found.agreement:.2%}")
    how = f" ({found.told_by})" if found.told_by else ""
    return f"{found.images} images of {escape(found.source)}{how}: {'; '.join(told)}"


def _print_bisection(console: Console, found: Bisection) -> None:
    """The first node that departs, and what comes after it."""
    if found.first is None:
        console.print(
            f"nothing departs: {found.compared} values agree to {found.tolerance:.0e} of their "
            "length"
        )
        return
    first = found.first
    how = "departs at" if found.sudden else "errors grow step by step, beyond the tolerance at"
    console.print(
        f"{how} [bold]{escape(first.node)}[/] ({first.operator}): error {first.error:.1e}, of what "
        f"it is given {first.inputs:.1e} ({found.tolerance:.0e} allowed, {found.compared} values)"
    )
    for one in found.following:
        console.print(f"  then {escape(one.node)} ({one.operator}): {one.error:.1e}")
