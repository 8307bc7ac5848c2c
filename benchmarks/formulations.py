"""Three ways to send rows down two paths and put them back, timed against each other.

    python benchmarks/formulations.py --models swin-t convnext-s --batches 1 8

inverse permutation   a gather a path, one concatenation, one gather back: what dynexport exports
overwrite             the fast path computed everywhere, the slow rows scattered over it
two scatters          a gather a path, a scatter a path

The same weights in each; processes, rounds and ratios as rounds.py says.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import processor
from onnxscript import opset20
from random_weights import random_model
from rounds import onnx_candidate, require_measured, time_in_turn
from torch import Tensor, nn

from dynexport.bench.ratios import Ratio
from dynexport.bench.timing import Plan
from dynexport.conversion import Recipe, convert
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import read_metadata
from dynexport.models import SparseModel, Tokens, find_variant
from dynexport.models.operators import in_dense_twin, take_rows
from dynexport.models.sparsifiers import Path as RowPath
from dynexport.models.sparsifiers import Route
from dynexport.pytorch.export import TRANSLATIONS, export_onnx
from dynexport.pytorch.rewrite import rewrite
from dynexport.schedule import schedule_from_base


@torch.library.custom_op("dynexport_benchmarks::place", mutates_args=())
def place(rows: Tensor) -> Tensor:
    """Rows of each item (B, K, 1) as places in the batch (B, K, 2): item and row."""
    items = torch.arange(len(rows)).view(-1, 1, 1).expand(rows.shape)
    return torch.cat([items, rows], dim=-1)


@place.register_fake
def _(rows: Tensor) -> Tensor:
    return rows.new_empty(*rows.shape[:2], 2)


@torch.library.custom_op("dynexport_benchmarks::put", mutates_args=())
def put(x: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """x (B, N, C) with the rows at ``places`` replaced."""
    return x.index_put((places[..., 0], places[..., 1]), rows)


@put.register_fake
def _(x: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    return torch.empty_like(x)


def translate_place(rows: Any) -> Any:
    op: Any = opset20
    one = op.Add(op.Sub(rows, rows), op.Constant(value_ints=[1]))
    return op.Concat(op.CumSum(one, op.Constant(value_int=0), exclusive=1), rows, axis=-1)


TRANSLATIONS[torch.ops.dynexport_benchmarks.place.default] = translate_place
TRANSLATIONS[torch.ops.dynexport_benchmarks.put.default] = opset20.ScatterND


def overwrite(order: Tensor, count: int) -> Route:
    first = order[:, :count]
    places = place(first)

    def route(x: Tensor, slow: RowPath, fast: RowPath) -> Tensor:
        chosen = slow(in_dense_twin(take_rows(x, first), x))
        return in_dense_twin(put(fast(x), places, chosen), chosen)

    return route


def two_scatters(order: Tensor, count: int) -> Route:
    first, rest = order.split([count, order.shape[1] - count], dim=1)
    first_places, rest_places = place(first), place(rest)

    def route(x: Tensor, slow: RowPath, fast: RowPath) -> Tensor:
        chosen = slow(in_dense_twin(take_rows(x, first), x))
        half = put(x, first_places, chosen)
        return in_dense_twin(put(half, rest_places, fast(take_rows(x, rest))), chosen)

    return route


class Rerouted(nn.Module):
    """A stage's sparsifier with another way to put rows back."""

    def __init__(self, stage: Any, make: Callable[[Tensor, int], Route], ranked: int) -> None:
        super().__init__()
        self.stage, self.make, self.ranked = stage, make, ranked

    def forward(self, tokens: Tokens) -> Tokens:
        order = self.stage.scores(tokens.x).topk(self.ranked, dim=1).indices
        return tokens._replace(route=self.make(order, self.stage.keep_count))


def reroute(model: SparseModel, make: Callable[[Tensor, int], Route], full_sort: bool) -> None:
    stages: Any = model.get_submodule(model.sparsifiers)
    for number, stage in enumerate(stages):
        ranked = model.config.num_tokens if full_sort else stage.keep_count
        stages[number] = Rerouted(stage, make, ranked)


def write_variants(
    name: str, batch: int, ratio: float, folder: Path
) -> tuple[dict[str, Path], Metadata]:
    """An ONNX file for each way, by its name."""
    model, (family, _) = random_model(name), find_variant(name)
    checkpoint, ours = folder / f"{name}.pth", folder / f"{name}.onnx"
    torch.save({"model": model.state_dict()}, checkpoint)
    convert(Recipe(checkpoint, ratio=ratio, batch=batch, output=ours))
    metadata = read_metadata(ours)
    files = {"inverse permutation": ours}
    keep = schedule_from_base(family.schedule, ratio, len(metadata.keep_counts))
    for label, make in (("overwrite", overwrite), ("two scatters", two_scatters)):
        inference = rewrite(model, keep)
        reroute(inference, make, full_sort=make is two_scatters)
        exported = export_onnx(inference, metadata)
        files[label] = folder / f"{name} {label}.onnx"
        exported.write(files[label])
    return files, metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["swin-t", "convnext-s"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--round-seconds", type=float, default=0.5)
    options = parser.parse_args()
    plan = Plan(rounds=options.rounds, round_seconds=options.round_seconds)
    print(f"{processor()}\n\n| model | batch | way | GMACs | nodes | min | p50 | time, ours 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models:
        for batch in options.batches:
            with tempfile.TemporaryDirectory() as folder:
                files, metadata = write_variants(name, batch, options.ratio, Path(folder))
                size = metadata.preprocessing.img_size
                candidates = [onnx_candidate(label, path) for label, path in files.items()]
                times = require_measured(time_in_turn(candidates, (batch, 3, *size), plan))
                ours = times[candidates[0].label]
                for label, path in files.items():
                    facts = read_metadata(path)
                    print(
                        f"| {name} | {batch} | {label} | {facts.macs_sparse / 1e9:.2f} | "
                        f"{facts.nodes} | {times[label].min:.1f} | {times[label].p50:.1f} | "
                        f"{Ratio.of(times[label], ours)} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
