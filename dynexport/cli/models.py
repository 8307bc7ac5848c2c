"""`dynexport models`: the published variants."""

from __future__ import annotations

from typing import Any

from dynexport.cli.console import make_table, print_json, progress, stdout
from dynexport.cli.options import Json, Plugins, Quiet, Verbose

NARROWED = (
    "GMACs are of the model as trained; convert counts less where the head reads the class token "
    "alone, as a DeiT's: the exported graph computes the last block for that token alone"
)
"""Why `convert` tells other figures."""


def models(
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the published variants: size, multiply-accumulates by keep ratio, accuracy."""
    from dynexport.pytorch import require_convert_extras

    require_convert_extras()
    from dynexport.pytorch.variants import list_models

    with progress(quiet, verbose) as on_step:
        rows = list_models(on_step, plugins=plugin or ())
    (print_json if json else show_models)(rows)


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
    console = stdout()
    console.print(table)
    console.print(NARROWED)
