"""A choice made elsewhere, replayed in a graph: so that two forms are compared for numbers alone.

A stage selects *rows*: among what the stage before left, in the order it left it. A choice is told
as *positions*: of the patch grid, and behind them of appended tokens
(`dynexport.schedule.Selection`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.errors import ModelFileError
from dynexport.formats.metadata import Metadata
from dynexport.graph.batch import infer_shapes
from dynexport.graph.selection import named_values

NOWHERE = -1
"""In place of a position: a row that is no token, such as the class token's."""


def emit_choices(model: ir.Model, metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """Add, per stage, two outputs: the rows it selects and the scores they were ranked by.

    Rows are int64 (B, K or more, 1), scores (B, N, 1). Returns their names.

    ModelFileError where the rows do not come from a top-k.
    """
    emitted = []
    for name, rows in named_values(model, metadata.selected).items():
        scores = _ranked_by(rows)
        for value in (rows, scores):
            if not value.is_graph_output():
                model.graph.outputs.append(value)
        emitted.append((name, str(scores.name)))
    return tuple(emitted)


def _ranked_by(rows: ir.Value) -> ir.Value:
    """The scores of the nearest top-k that rows come from."""
    reached: list[ir.Value] = [rows]
    for value in reached:
        producer = value.producer()
        if producer is None:
            continue
        if producer.op_type == "TopK" and producer.inputs[0] is not None:
            return producer.inputs[0]
        reached += [
            given for given in producer.inputs if given is not None and given not in reached
        ]
    raise ModelFileError(
        f"the rows {rows.name!r} do not come from a top-k, so another tool changed how tokens are "
        "chosen: convert the checkpoint again"
    )


def replay_selection(model: ir.Model, metadata: Metadata) -> tuple[tuple[str, int], ...]:
    """Make the rows that each stage selects an input, int64 (B, rows, 1).

    Returns, per stage, its name and how many rows it takes.

    Each stage still ranks and chooses, but what follows goes by the input: with PyTorch's choice
    there, every stage is judged on the tokens that PyTorch's had before it.
    """
    if any(value.shape is None for value in named_values(model, metadata.selected).values()):
        infer_shapes(model)
    batch = (model.graph.inputs[0].shape or [None])[0]
    inputs = []
    for stage, rows in enumerate(named_values(model, metadata.selected).values()):
        assert rows.shape is not None
        count = int(rows.shape[1])  # type: ignore[arg-type]
        given = ir.Value(
            name=f"replay_{stage}",
            shape=ir.Shape([batch, count, 1]),
            type=ir.TensorType(ir.DataType.INT64),
        )
        ir.convenience.replace_all_uses_with(rows, given)
        model.graph.inputs.append(given)
        inputs.append((f"replay_{stage}", count))
    return tuple(inputs)


def replay_inputs(model: ir.Model) -> tuple[ir.Value, ...]:
    """The inputs that `replay_selection` gave a graph."""
    return tuple(
        value
        for value in model.graph.inputs
        if (value.name or "").startswith("replay_") and value.dtype == ir.DataType.INT64
    )


def rows_of(
    kept: Sequence[NDArray[np.int64]], counts: Sequence[int], metadata: Metadata
) -> tuple[NDArray[np.int64], ...]:
    """Positions kept, per stage (B, K), as rows to feed, per stage (B, count, 1).

    The leading rows come first, then those kept, then as many of the others as ``counts`` asks
    for: a stage with two paths lists every row.
    """
    lead, rows = metadata.selection.leading, []
    for stage, (positions, count) in enumerate(zip(kept, counts, strict=True)):
        left = _ranked(kept, stage, metadata)
        left = np.broadcast_to(left, (len(positions), left.shape[1]))
        places = (left[:, None, :] == positions[:, :, None]).argmax(axis=2)
        taken = np.zeros(left.shape, dtype=bool)
        np.put_along_axis(taken, places, True, axis=1)
        others = np.argsort(taken, axis=1, kind="stable")  # those not taken come first
        leading = np.broadcast_to(np.arange(lead), (len(positions), lead))
        chosen = np.concatenate([leading, places + lead, others + lead], axis=1)[:, :count]
        rows.append(np.ascontiguousarray(chosen[:, :, None].astype(np.int64)))
    return tuple(rows)


def positions_of(
    rows: Sequence[NDArray[np.int64]],
    metadata: Metadata,
    before: Sequence[NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.int64], ...]:
    """Rows selected, per stage (B, K or more, 1), as positions kept, per stage (B, K).

    before: what each stage kept for the one after it, where it was replayed; by default its own
    choice. `NOWHERE` stands for rows that are no tokens, and for all where rows are missing or the
    leading ones are not in front.
    """
    lead = metadata.selection.leading
    kept: list[NDArray[np.int64]] = []
    for stage, (chosen, count) in enumerate(zip(rows, metadata.keep_counts, strict=True)):
        left = _ranked(kept if before is None else before, stage, metadata)
        flat = chosen.reshape(len(chosen), -1).astype(np.int64)
        if flat.shape[1] < lead + count:
            kept.append(np.full((len(flat), count), NOWHERE, dtype=np.int64))
            continue
        places = flat[:, lead : lead + count] - lead
        sound = (places >= 0) & (places < left.shape[1])
        sound &= (flat[:, :lead] == np.arange(lead)).all(axis=1, keepdims=True)
        found = np.take_along_axis(left, np.where(sound, places, 0), axis=1)
        kept.append(np.where(sound, found, NOWHERE))
    return tuple(kept)


def scores_on_grid(
    scores: NDArray[np.generic],
    kept: Sequence[NDArray[np.int64]],
    stage: int,
    metadata: Metadata,
) -> NDArray[np.float64]:
    """Scores that a stage ranked by, (B, N, 1), put where their tokens stand.

    (B, positions), -inf where it ranked none, NaN where there are too few; ``kept``: what each
    stage left.
    """
    lead, left = metadata.selection.leading, _ranked(kept, stage, metadata)
    positions = metadata.selection.positions(metadata.num_tokens, len(metadata.keep_counts))
    own = scores.reshape(len(scores), -1).astype(np.float64)[:, lead:]
    grid = np.full((len(own), positions), -np.inf)
    if own.shape[1] != left.shape[1]:
        return np.full_like(grid, np.nan)
    np.put_along_axis(grid, np.broadcast_to(left, own.shape), own, axis=1)
    return grid


def _ranked(kept: Sequence[NDArray[np.int64]], stage: int, metadata: Metadata) -> NDArray[np.int64]:
    """Positions that a stage ranks, (B, N), in the order of its rows, leading ones apart; (1, N)
    where every image has the same."""
    selection, tokens = metadata.selection, metadata.num_tokens
    if stage == 0 or not selection.nested:
        return np.arange(tokens, dtype=np.int64)[None]
    before = kept[stage - 1]
    behind = np.array(selection.appended_by(stage - 1, tokens), dtype=np.int64)
    appended = np.broadcast_to(behind, (len(before), len(behind)))
    return np.concatenate([before, appended], axis=1)
