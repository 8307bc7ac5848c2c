"""What `dynexport convert` prints: what it gained, how it was verified, where it is."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING

from rich.markup import escape

from dynexport.cli.build import show_build
from dynexport.cli.console import macs_unit, make_table, stdout
from dynexport.cli.options import as_options
from dynexport.cli.verify import describe_fit, show_verification
from dynexport.schedule import format_ratios

if TYPE_CHECKING:
    from rich.console import Console

    from dynexport.conversion import Conversion
    from dynexport.formats.metadata import Metadata
    from dynexport.precision import PrecisionReport


def show_conversion(result: Conversion) -> None:
    """What was converted, what it gained, how it was verified, where it is."""
    console = stdout()
    facts = result.metadata
    console.print(f"\n[bold]{escape(facts.variant)}[/] {_tokens(facts)}")
    if result.assumed:
        console.print("assumed, as nothing says it:")
        for one in result.assumed:
            console.print(f"  {escape(as_options(str(one)))}")
    table = make_table("", "dense", "this model", "ratio")
    macs = (facts.macs_dense, facts.macs_sparse)
    unit, scale = macs_unit(macs)
    shown = (f"{count / scale:.2f}" for count in macs)
    table.add_row(f"{unit} an image", *shown, f"{macs[0] / macs[1]:.2f} x")
    nodes = (facts.nodes_dense, facts.nodes)
    table.add_row("ONNX nodes", *map(str, nodes), f"{nodes[1] / nodes[0]:.2f}")
    console.print(table)
    console.print(
        f"rewrite proved on {result.proof.images} images: error {result.proof.max_abs_error:.1e} "
        f"against the dense masked form, outputs up to {result.proof.scale:.3g}"
    )
    if result.expected is not None:
        console.print(describe_fit(result.expected))
    _print_precision(console, result.precision)
    show_verification(result.verification)
    seconds, megabytes = sum(result.seconds.values()), result.size_bytes / 1e6
    console.print(f"wrote {escape(result.onnx)} ({megabytes:.1f} MB) in {seconds:.1f} s")
    console.print(f"      {escape(result.reference)}")
    if result.engine is not None:
        show_build(result.engine)
    elif facts.precision["name"] == "bf16":
        console.print(f"next: dynexport build {escape(shlex.quote(result.onnx))}")
    elif facts.keep_counts:
        console.print(f"next: dynexport bench {escape(shlex.quote(result.onnx))}")


def _tokens(facts: Metadata) -> str:
    if facts.ratios is None:
        return f"dense, {facts.num_tokens} tokens"
    counts = " -> ".join(map(str, (facts.num_tokens, *facts.keep_counts)))
    rows = "" if facts.align == 1 else f", rows in multiples of {facts.align}"
    return f"at {format_ratios(facts.ratios)}: {counts} tokens{rows}"


def _print_precision(console: Console, done: PrecisionReport) -> None:
    """What stayed in float32, what was calibrated, and the harm of int8 layer by layer."""
    if done.single:
        told = ", ".join(f"{name} ({largest:.2g})" for name, largest in done.single.items())
        console.print(f"too large for half precision, so in float32: {escape(told)}")
    if done.int8 is None:
        return
    made = done.int8
    methods = Counter(chosen.method for chosen in made.ranges)
    smoothed = sum(chosen.alpha is not None for chosen in made.ranges)
    console.print(
        f"calibrated {len(made.ranges)} layers on {made.images} of {escape(done.images)}: "
        + ", ".join(f"{method} {count}" for method, count in methods.most_common())
        + (f"; {smoothed} smoothed" if smoothed else "")
    )
    near = made.nearness
    kept = ", ".join(f"{overlap:.1%}" for overlap in near.overlaps)
    console.print(
        f"on {made.tried} of {made.held_out} images held out: agreement {near.agreement:.1%}, "
        f"divergence {near.divergence:.1e}"
        + (
            f"; kept sets {kept}; predictors in {'int8' if made.predictors else 'float32'}"
            if kept
            else ""
        )
    )
    if made.ranking:
        table = make_table("int8 here alone", "divergence", "agreement", "")
        for place in made.ranking:
            back = "raised" if set(place.layers) <= set(made.raised) else ""
            table.add_row(
                ", ".join(place.layers), f"{place.divergence:.1e}", f"{place.agreement:.1%}", back
            )
        console.print(table)
