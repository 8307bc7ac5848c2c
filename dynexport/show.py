"""What each command prints: results as people read them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from dynexport.console import make_table, stdout
from dynexport.keep import format_ratios

if TYPE_CHECKING:
    from rich.table import Table

    from dynexport.bench import BenchResult
    from dynexport.doctor import Command, Diagnosis, Package
    from dynexport.engine import EngineBuild
    from dynexport.gpu import GpuConditions, GpuFacts
    from dynexport.metadata import Metadata
    from dynexport.optimize import Optimization
    from dynexport.pipeline import Conversion
    from dynexport.precision import PrecisionReport
    from dynexport.preflight import Preflight
    from dynexport.preflight.view import Finding
    from dynexport.verify import Tolerances, Verification
    from dynexport.verify.accuracy import Accuracy
    from dynexport.verify.bisect import Bisection
    from dynexport.verify.numbers import Agreement, Errors


def show_conversion(result: Conversion) -> None:
    """What was converted, what it gained, how it was verified, where it is."""
    console = stdout()
    facts = result.metadata
    console.print(f"\n[bold]{escape(facts.variant)}[/] {_tokens(facts)}")
    table = make_table("", "dense", "this model", "ratio")
    macs = (facts.macs_dense, facts.macs_sparse)
    table.add_row("GMACs an image", *(f"{m / 1e9:.2f}" for m in macs), f"{macs[0] / macs[1]:.2f} x")
    nodes = (facts.nodes_dense, facts.nodes)
    table.add_row("ONNX nodes", *map(str, nodes), f"{nodes[1] / nodes[0]:.2f}")
    console.print(table)
    console.print(
        f"rewrite proved on {result.proof.images} images: error {result.proof.max_abs_error:.1e} "
        f"against the dense masked form, outputs up to {result.proof.scale:.3g}"
    )
    _print_precision(console, result.precision)
    _print_verification(console, result.verification)
    seconds, megabytes = sum(result.seconds.values()), result.size_bytes / 1e6
    console.print(f"wrote {escape(result.onnx)} ({megabytes:.1f} MB) in {seconds:.1f} s")
    console.print(f"      {escape(result.reference)}")
    if result.engine is not None:
        show_build(result.engine)
    elif facts.precision["name"] == "bf16":
        console.print(f"next: dynexport build {escape(shlex.quote(result.onnx))}")
    elif facts.keep_counts:
        console.print(f"next: dynexport bench {escape(shlex.quote(result.onnx))}")


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


def show_verification(result: Verification) -> None:
    """Passed or failed, and by how much."""
    _print_verification(stdout(), result)


def _print_verification(console: Console, result: Verification) -> None:
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
    if result.accuracy is not None:
        console.print(_accuracy(result.accuracy))
    for failure in result.failures:
        console.print(f"[red]failed:[/] {escape(failure)}")
    if result.bisection is not None:
        _print_bisection(console, result.bisection)


def _error(errors: Errors, tolerances: Tolerances) -> str:
    """Numeric error under one choice of tokens, and what is allowed."""
    spread = (
        f"max {errors.max_abs:.1e}, mean {errors.mean_abs:.1e} on values up to {errors.scale:.3g}"
    )
    if tolerances.measure == "l2":
        return f"error {errors.l2:.1e} of its length ({tolerances.outputs:.0e} allowed), {spread}"
    allowed = tolerances.outputs * max(1.0, errors.scale)
    return f"error {spread} ({allowed:.1e} allowed)"


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
    return f"{found.images} images of {escape(found.source)}: {'; '.join(told)}"


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


def show_preflight(result: Preflight) -> None:
    """A line a finding, those that many nodes share as one, and what becomes of the file."""
    console = stdout()
    shared: dict[tuple[str, str, str], list[Finding]] = {}
    for found in result.findings:
        shared.setdefault((found.severity, found.rule, found.mend), []).append(found)
    for (severity, _, mend), findings in shared.items():
        first, others = findings[0], len(findings) - 1
        nodes = f"{first.node} and {others} more" if others else first.node
        colour = "red" if severity == "refused" else "yellow"
        console.print(
            f"[{colour}]{severity}[/] [bold]{escape(nodes)}[/]: {escape(first.what)}",
            f"mend: {escape(mend)}",
            sep="\n        " if console.is_terminal else "; ",
        )
    console.print(f"{escape(result.model)}: {escape(_preflight_verdict(result))}")
    if result.unparsed:
        console.print(f"[dim]no TensorRT read it: {escape(result.unparsed)}[/]")


def show_optimization(result: Optimization) -> None:
    """Pass by pass what was done, what it saved, and by how much outputs moved."""
    console = stdout()
    told = [done for done in result.passes if done.applied]
    if told:
        table = make_table("pass", "times", "")
        table.columns[2].justify = "left"
        for done in told:
            table.add_row(done.name, str(done.applied), done.what)
        console.print(table)
    for done in result.passes:
        if done.left_out:
            console.print(f"[yellow]left out[/] {done.name}: {escape(done.left_out)}")
    if result.unchanged:
        console.print(f"unchanged: {escape(result.reason)}")
        console.print(f"wrote {escape(result.output)}, a copy of {escape(result.model)}")
        return
    before, after = result.nodes
    macs = (
        ""
        if result.macs is None
        else ", {:.3f} -> {:.3f} GMACs an image".format(*(count / 1e9 for count in result.macs))
    )
    console.print(f"{before} -> {after} nodes{macs}, opset {result.opset[0]} -> {result.opset[1]}")
    tied = f"; {result.ties} with near-tied tokens in another order" if result.ties else ""
    console.print(
        f"[green]same outputs[/] on {result.images} images, half of them {escape(result.source)} "
        f"and half random: error {result.error:.1e}{tied}"
    )
    megabytes = result.size_bytes / 1e6
    console.print(f"wrote {escape(result.output)} ({megabytes:.1f} MB) in {result.seconds:.1f} s")
    console.print(f"next: dynexport check {escape(shlex.quote(result.output))}")


def _preflight_verdict(result: Preflight) -> str:
    reader = {
        True: f"{result.tensorrt} takes all {result.nodes} nodes",
        False: f"{result.tensorrt} does not take it",
        None: f"{result.nodes} nodes, judged by rules alone",
    }[result.parsed]
    count = len(result.findings)
    refused = sum(found.severity == "refused" for found in result.findings)
    if refused and result.parsed:
        reader = f"{result.tensorrt} parses all {result.nodes} nodes, and builds no engine of them"
    if not count:
        return f"{reader}, nothing to mend"
    return f"{reader}; {count} to mend" + (f", {refused} of them first" if refused else "")


def show_build(result: EngineBuild) -> None:
    """What was built, for what, and where it is."""
    console = stdout()
    facts = result.facts
    runs_on = facts.gpu or f"compute capability {', '.join(facts.capabilities)}"
    console.print(
        f"built with {facts.flavour} {facts.version} for {escape(runs_on)}: {facts.precision}, "
        f"batch {', '.join(facts.batches)}"
    )
    if facts.layers:
        console.print(
            f"{len(facts.layers)} layers, {facts.fused_attention} of them fused attention"
        )
    megabytes = result.size_bytes / 1e6
    console.print(f"wrote {escape(result.engine)} ({megabytes:.1f} MB) in {facts.seconds:.1f} s")
    console.print(f"      {escape(result.sidecar)}")
    console.print(f"next: dynexport bench --engine {escape(shlex.quote(result.engine))}")


def show_bench(result: BenchResult) -> None:
    """Latency of every candidate, and what sparsity gained of what it could."""
    console = stdout()
    first, several = result.batches[0], len(result.batches) > 1
    sizes = "" if several else f", batch {first.batch}"
    console.print(f"\n[bold]{escape(result.model)}[/]{sizes}, milliseconds")
    console.print(_bench_table(result, several))
    if not several:
        for gain in first.gains:
            console.print(
                f"{gain.runtime}: speed-up over the dense twin {gain.speedup:.2f} x, ideal by MACs "
                f"{result.ideal:.2f} x: {gain.efficiency:.1%} of it"
            )
    elif first.gains:
        size = result.break_even
        pays = f"pays from batch {size} on" if size else "does not pay at the largest batch"
        console.print(
            f"{first.gains[0].runtime}: sparse {pays}, ideal by MACs {result.ideal:.2f} x"
        )
    if result.layers:
        _print_layers(console, result)
    if result.gpu is not None and result.conditions is not None:
        console.print(_gpu_line(result.gpu, result.conditions))
    for note in result.notes:
        console.print(f"[dim]{escape(note)}[/]")


def _bench_table(result: BenchResult, several: bool) -> Table:
    """A row a candidate, a block a batch size; where there are several, what each gained."""
    spreads = ("min", "p50", "p90", "p99")
    on_gpu = any(timing.gpu for batch in result.batches for timing in batch.timings)
    transfers = ("with transfers", "enqueue") if on_gpu else ()
    gains = ("batch", "speed-up", "of ideal") if several else ()
    table = make_table("", *spreads, *transfers, "images/s", "runs", *gains)
    for batch in result.batches:
        gained = {f"{g.runtime} sparse": g for g in batch.gains}
        for timing in batch.timings:
            cells = [f"{getattr(timing.computing, name):.2f}" for name in spreads]
            if on_gpu:
                cells.append(f"{timing.total.p50:.2f}")
                cells.append("" if timing.enqueue is None else f"{timing.enqueue.p50:.3f}")
            cells += [f"{timing.images_per_second:.1f}", str(timing.runs)]
            if several:
                gain = gained.get(timing.label)
                cells.append(str(batch.batch))
                cells += [f"{gain.speedup:.2f} x", f"{gain.efficiency:.1%}"] if gain else ["", ""]
            table.add_row(timing.label, *cells)
    return table


def _gpu_line(gpu: GpuFacts, seen: GpuConditions) -> str:
    """On what it was measured, and whether the clocks held."""
    told = [escape(gpu.name or "a GPU without a name")]
    for label, values, unit in (
        ("SM clock", seen.sm_clock, "MHz"),
        ("memory clock", seen.memory_clock, "MHz"),
        ("power", seen.power, "W"),
        ("temperature", seen.temperature, "C"),
    ):
        if values is not None:
            told.append(f"{label} {values.min:.0f} to {values.max:.0f} {unit}")
    if seen.reasons is not None:
        held = f"slowed down by {', '.join(seen.slowed)}" if seen.slowed else "not slowed down"
        told.append(held)
    return ", ".join(told)


def _print_layers(console: Console, result: BenchResult) -> None:
    """Groups of layers, a column a candidate."""
    batch = result.batches[0].batch
    console.print(f"\n[bold]where the time goes[/], batch {batch}, milliseconds")
    table = make_table("", *result.layers)
    groups = next(iter(result.layers.values()))
    for group in groups:
        table.add_row(group, *(f"{times[group]:.2f}" for times in result.layers.values()))
    table.add_row("sum", *(f"{sum(times.values()):.2f}" for times in result.layers.values()))
    console.print(table)


def show_facts(facts: dict[str, Any]) -> None:
    """What `inspect` found, a line a fact."""
    console = stdout()
    for name, value in facts.items():
        if isinstance(value, dict):
            console.print(f"[bold]{escape(name)}[/]")
            for key, item in value.items():
                console.print(escape(f"  {key:<20} {_plain(item)}"))
        else:
            console.print(escape(f"{name:<22} {_plain(value)}"))


def show_models(rows: list[dict[str, Any]]) -> None:
    """The published variants, a row each."""
    ratios = list(rows[0]["macs"])
    columns = [f"GMACs {ratio:g}" if ratio != 1.0 else "GMACs dense" for ratio in ratios]
    table = make_table("model", "M params", *columns, "top-1 at 0.7", "prune at")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['parameters'] / 1e6:.1f}",
            *(f"{row['macs'][ratio] / 1e9:.2f}" for ratio in ratios),
            "" if row["published_top1"] is None else f"{row['published_top1']} %",
            ", ".join(map(str, row["prune_at"])),
        )
    stdout().print(table)


def show_diagnosis(found: Diagnosis) -> None:
    """What `doctor` found, and what each command can do with it."""
    console = stdout()

    def show(title: str, rows: Iterable[tuple[str, str]]) -> None:
        console.print(f"[bold]{title}[/]")
        for name, told in rows:
            console.print(escape(f"  {name:<14} {told}".rstrip()))

    console.print(escape(f"dynexport {found.dynexport}, Python {found.python}: {found.executable}"))
    console.print(escape(found.platform))
    show("packages", ((p.name, _state(p)) for p in found.packages))
    show("runtimes", ((r.name, _state(r, r.note)) for r in found.runtimes))
    show("GPU", ((gpu.name or "of unknown name", _gpu_facts(gpu)) for gpu in found.gpus))
    if found.gpu_problem:
        console.print(
            escape(f"  {'not usable' if found.gpus else 'none found'}: {found.gpu_problem}")
        )
    show("commands", ((command.name, _readiness(command)) for command in found.commands))
    for install, names in _optional(found).items():
        console.print(escape(f"optional: {', '.join(names)}: {install}"))
    for problem in found.problems:
        console.print(f"[red]problem:[/] {escape(problem)}")
    if found.healthy:
        console.print("[green]healthy[/]")


def _optional(found: Diagnosis) -> dict[str, list[str]]:
    """What would bring more, beyond what a command lacks: command -> packages."""
    more: dict[str, list[str]] = {}
    for package in (*found.packages, *found.runtimes):
        if package.install and not any(package.name in c.lacks for c in found.commands):
            more.setdefault(package.install, []).append(package.name)
    return more


def _state(package: Package, note: str = "") -> str:
    if package.state == "missing":
        return "not installed"
    return f"{package.version or '?':<14} {package.problem or note}"


def _gpu_facts(gpu: GpuFacts) -> str:
    told = (
        ("compute capability", gpu.compute_capability),
        ("memory", gpu.memory_bytes and f"{gpu.memory_bytes / 2**30:.0f} GiB"),
        ("driver", gpu.driver),
        ("CUDA up to", gpu.cuda),
    )
    return ", ".join(f"{label} {value}" for label, value in told if value)


def _readiness(command: Command) -> str:
    if command.ready:
        return f"ready{' with ' if command.runtimes else ''}{', '.join(command.runtimes)}"
    return f"lacks {', '.join(command.lacks)}" + (f": {command.install}" if command.install else "")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _tokens(facts: Metadata) -> str:
    if facts.ratios is None:
        return f"dense, {facts.num_tokens} tokens"
    counts = " -> ".join(map(str, (facts.num_tokens, *facts.keep_counts)))
    rows = "" if facts.align == 1 else f", rows in multiples of {facts.align}"
    return f"at {format_ratios(facts.ratios)}: {counts} tokens{rows}"
