"""How far a typed graph lies from the float32 graph under one choice of tokens: its rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.calibration.running import Batches, static_batch
from dynexport.compare.numbers import measure_errors, not_numbers
from dynexport.compare.selection import largest_inversion
from dynexport.compare.tolerances import OwnRounding
from dynexport.errors import CalibrationError
from dynexport.formats.metadata import Metadata
from dynexport.graph.emulation import computes_in_half, emulate_half
from dynexport.graph.replay import emit_choices, replay_selection
from dynexport.images import fill_batch
from dynexport.runtimes import open_runner

Answer = Mapping[str, NDArray[Any]]


def compare_under_one_choice(
    model: ir.Model, typed: ir.Model, metadata: Metadata, batches: Batches
) -> OwnRounding:
    """The float32 graph chooses, the typed one is told its choice, and both rank at each stage.

    CalibrationError where an answer is no finite number.
    """
    pairs = list(_answer_in_turn(model, typed, metadata, batches))
    worst = 0.0
    for name in metadata.outputs:
        expected, found = (np.concatenate([pair[side][name] for pair in pairs]) for side in (0, 1))
        for problem in not_numbers(f"{name} of the typed graph", found):
            raise CalibrationError(f"{problem}: check the images and the checkpoint")
        worst = max(worst, measure_errors(expected, found).l2)
    scores = [f"scores_{stage}" for stage in range(len(metadata.keep_counts))]
    return OwnRounding(
        images=sum(len(expected[name]) for expected, _ in pairs),
        outputs=worst,
        ranking=max(
            (largest_inversion(*(each[s] for each in pair)) for pair in pairs for s in scores),
            default=0.0,
        ),
    )


def _answer_in_turn(
    model: ir.Model, typed: ir.Model, metadata: Metadata, batches: Batches
) -> Iterator[tuple[Answer, Answer]]:
    """Both graphs' answers for each batch, the typed one's under the other's choice.

    Outputs by name, and what each stage ranks by, (B, tokens): ``scores_0 ...``.
    """
    free, told = model.clone(), typed.clone()
    inputs = [name for name, _ in replay_selection(told, metadata)]
    theirs_emit, ours_emit = emit_choices(free, metadata), emit_choices(told, metadata)
    ready = emulate_half(told) if computes_in_half(told) else told
    with (
        open_runner("onnxruntime", free) as theirs,
        open_runner("onnxruntime", ready) as ours,
    ):
        size = static_batch(model)
        for images in batches:
            given = images if size is None else fill_batch(images, size)
            expected = theirs.run(given)
            choices = (expected[name].astype(np.int64) for name, _ in theirs_emit)
            found = ours.run(given, dict(zip(inputs, choices, strict=True)))
            both = ((expected, theirs_emit), (found, ours_emit))
            there, here = (_by_name(*one, metadata, len(images)) for one in both)
            yield there, here


def _by_name(
    answers: Answer, emitted: Sequence[tuple[str, str]], metadata: Metadata, count: int
) -> Answer:
    """The answers for so many images, by names that both graphs have."""
    named = {name: answers[name][:count] for name in metadata.outputs}
    for stage, (_, scores) in enumerate(emitted):
        ranked = answers[scores][:count].reshape(count, -1)
        named[f"scores_{stage}"] = ranked[:, metadata.selection.leading :]
    return named
