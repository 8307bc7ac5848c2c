"""Damages to which tokens are chosen, and to what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from damages.surgery import Change, Patient

STAGE = 1
"""The pruning stage that is damaged, counted from 0: one with stages before and behind it."""


def take_the_smallest(patient: Patient) -> None:
    patient.top_k(STAGE).attributes["largest"] = ir.AttrInt64("largest", 0)


def count_rows_from_one(patient: Patient) -> None:
    """The top-k gives row numbers one too high, the last one clipped."""
    chosen = patient.top_k(STAGE).outputs[1]
    higher = ir.node("Add", [chosen, patient.constant(np.array(1))])
    last = patient.constant(np.array(_ranked(patient) - 1))
    _choose_instead(patient, [higher, ir.node("Min", [higher.outputs[0], last])])


def gather_one_row_further(patient: Patient) -> None:
    """The right rows are chosen, and those behind them moved."""
    for gather in patient.gathers(STAGE):
        _one_higher(patient, gather)


def gather_rows_of_the_first_image(patient: Patient) -> None:
    """Every image of a batch gets the rows chosen for its first, as where batch_dims is ignored."""
    first_only = patient.constant(np.array([0]))
    for gather in patient.gathers(STAGE):
        rows = gather.inputs[1]
        shape = ir.node("Shape", [rows])
        first = ir.node("Gather", [rows, first_only], {"axis": 0})
        everywhere = ir.node("Expand", [first.outputs[0], shape.outputs[0]])
        patient.model.graph.insert_before(gather, [shape, first, everywhere])
        gather.replace_input_with(1, everywhere.outputs[0])


def gather_rows_of_the_next_image(patient: Patient) -> None:
    """Each image gets the rows chosen for its neighbour in the batch."""
    ends = [patient.constant(np.array([number])) for number in (0, 1, 2**62)]
    for gather in patient.gathers(STAGE):
        rows = gather.inputs[1]
        head = ir.node("Slice", [rows, ends[0], ends[1], ends[0]])
        rest = ir.node("Slice", [rows, ends[1], ends[2], ends[0]])
        rolled = ir.node("Concat", [rest.outputs[0], head.outputs[0]], {"axis": 0})
        patient.model.graph.insert_before(gather, [head, rest, rolled])
        gather.replace_input_with(1, rolled.outputs[0])


def gather_from_the_whole_grid(patient: Patient) -> None:
    """Rows counted among the tokens left are looked up in the map before anything was dropped."""
    (gather,) = patient.gathers(STAGE)
    (before,) = patient.gathers(STAGE - 1)
    gather.replace_input_with(0, before.inputs[0])


def repeat_the_best_for_the_last(patient: Patient) -> None:
    """One too few is taken, and the first one fills up what is missing: a token twice."""
    _reorder(patient, lambda kept: [*range(kept - 1), 1 if _lead(patient) else 0])


def take_the_next_best_for_the_last(patient: Patient) -> None:
    """The cut is off by one: the best token dropped takes the place of the worst kept."""
    _reorder(patient, lambda kept: [*range(kept - 1), kept])


def skip_the_best(patient: Patient) -> None:
    """The cut is off by one at the front: with a class token, that is what goes."""
    _reorder(patient, lambda kept: range(1, kept + 1))


def keep_in_another_order(patient: Patient) -> None:
    """The same tokens, the class token first, the others back to front."""
    lead = _lead(patient)
    _reorder(patient, lambda kept: [*range(lead), *range(lead, kept)[::-1]])


def leave_the_choice_unsorted(patient: Patient) -> None:
    patient.top_k(STAGE).attributes["sorted"] = ir.AttrInt64("sorted", 0)


def forget_the_pin(patient: Patient) -> None:
    """The class token is ranked by a score of its own, as any other."""
    scores = patient.top_k(STAGE).inputs[0]
    assert scores is not None
    where = scores.producer()
    assert where is not None
    patient.change(where, 0, np.zeros_like)


def swap_predictors(patient: Patient) -> None:
    """Stages 2 and 3 rank with each other's layers."""
    scopes = [_predictor(patient, stage) for stage in (1, 2)]
    nodes = [
        {str(n.name).removeprefix(scope): n for n in patient.model.graph if _within(n, scope)}
        for scope in scopes
    ]
    for name, first in nodes[0].items():
        for place, value in enumerate(first.inputs):
            if value is not None and value.is_initializer() and _learnt(value):
                patient.swap((first, place), (nodes[1][name], place))


def average_the_class_token_too(patient: Patient) -> None:
    """The predictor's mean is over all rows, not over the patches."""
    _weigh_mean(patient, lambda weights: np.full_like(weights, 1 / weights.size))


def average_the_first_half(patient: Patient) -> None:
    """The predictor's mean is over half of the tokens."""
    _weigh_mean(patient, lambda w: np.where(np.arange(w.size) < w.size // 2, 2 * w, 0))


def average_nothing(patient: Patient) -> None:
    """The predictor goes without the mean of the tokens."""
    _weigh_mean(patient, np.zeros_like)


def double_the_scores(patient: Patient) -> None:
    score = patient.layer(f"{_predictor(patient)}.score")
    patient.change(score, 1, lambda weights: 2 * weights)


def rank_with_relu(patient: Patient) -> None:
    """The predictor's GELUs are ReLUs."""
    for node in patient.nodes("Gelu", _predictor(patient)):
        patient.insert(node.outputs[0], "Relu", [node.inputs[0]])


def add_noise_to_scores(patient: Patient) -> None:
    """Noise of 0.3, the same in every run; a class token stays in front."""
    noise = np.random.default_rng(0).normal(0, 0.3, (1, _ranked(patient), 1)).astype(np.float32)
    noise[:, : _lead(patient)] = 3.0
    _rank_by(patient, [ir.node("Add", [_scores(patient), patient.constant(noise)])])


def choose_by_chance(patient: Patient) -> None:
    """Noise of 0.3 on the scores, another in every run."""
    noise = ir.node("RandomNormalLike", [_scores(patient)], {"scale": 0.3})
    _rank_by(patient, [noise, ir.node("Add", [_scores(patient), noise.outputs[0]])])


def kill_a_predictor(patient: Patient) -> None:
    """Its last weights are zero, so that every token scores as its bias says."""
    patient.change(patient.layer(f"{_predictor(patient)}.score"), 1, np.zeros_like)


def score_in_half(patient: Patient) -> None:
    """Scores go through half precision, where many are equal."""
    there = ir.node("Cast", [_scores(patient)], {"to": int(ir.DataType.FLOAT16)})
    back = ir.node("Cast", [there.outputs[0]], {"to": int(ir.DataType.FLOAT)})
    _rank_by(patient, [there, back])


def read_the_wrong_row(patient: Patient) -> None:
    """The head reads the best patch in place of the class token: its own Gather does, or, where the
    last block computes one row alone, that block's Slices."""
    cuts = [node for node in patient.model.graph if node.op_type == "Slice"]
    cuts = [node for node in cuts if str(node.name).startswith("blocks.")]
    places = [(cut, place) for cut in cuts for place in (1, 2)]
    for node, place in places or [(patient.node("Gather"), 1)]:
        patient.change(node, place, lambda row: row + 1)


def shift_positions(patient: Patient) -> None:
    """Every token is told the position of the one before it."""
    patient.change(patient.node("Add"), 1, lambda table: np.roll(table, 1, axis=1))


def put_back_in_score_order(patient: Patient) -> None:
    """Rows stay in the order of their scores, as if nothing had to be put back."""
    (back,) = _returns(patient)
    patient.insert(back.outputs[0], "Identity", [back.inputs[0]])


def put_back_to_front(patient: Patient) -> None:
    """The inverse permutation is sorted the wrong way round."""
    (back,) = _returns(patient)
    back.inputs[1].producer().attributes["largest"] = ir.AttrInt64("largest", 1)  # type: ignore[union-attr]


def put_back_one_row_further(patient: Patient) -> None:
    (back,) = _returns(patient)
    _one_higher(patient, back)


def swap_paths(patient: Patient) -> None:
    """The two paths' rows are joined the wrong way round."""
    join = patient.nodes("Concat", patient.parts.block)[0]
    patient.swap((join, 0), (join, 1))


def zero_the_fast_path(patient: Patient) -> None:
    result = patient.node(f"{patient.parts.fast}/Add").outputs[0]
    patient.insert(result, "Mul", [result, patient.constant(0.0, result)])


def fuse_all_tokens(patient: Patient) -> None:
    """The fused token holds the kept ones as well."""
    sub = patient.nodes("Sub", "fuse.1")[0]
    patient.insert(sub.outputs[0], "Identity", [sub.inputs[0]])


def _lead(patient: Patient) -> int:
    return patient.facts.selection.leading


def _ranked(patient: Patient) -> int:
    """Rows a stage ranks, the leading ones among them."""
    counts, tokens = patient.facts.keep_counts, patient.facts.num_tokens
    return _lead(patient) + patient.facts.selection.ranked(counts, tokens)[STAGE]


def _predictor(patient: Patient, stage: int = STAGE) -> str:
    """Scope of a stage's sparsifier, such as ``score_predictor.1``."""
    return str(patient.top_k(stage).name).rpartition("/")[0]


def _within(node: ir.Node, scope: str) -> bool:
    return str(node.name).startswith((f"{scope}/", f"{scope}."))


def _learnt(value: ir.Value) -> bool:
    """Whether a predictor's constant is weights, and does not hang on how many tokens there are."""
    learnt = value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.shape.rank() > 0
    return learnt and not str(value.name).partition("/")[0].endswith(".average")


def _scores(patient: Patient) -> ir.Value:
    """What a stage ranks, (B, N, 1)."""
    scores = patient.top_k(STAGE).inputs[0]
    assert scores is not None
    return scores


def _rank_by(patient: Patient, nodes: Sequence[ir.Node]) -> None:
    """What these nodes make of a stage's scores is what it ranks by."""
    top_k = patient.top_k(STAGE)
    patient.model.graph.insert_before(top_k, nodes)
    top_k.replace_input_with(0, nodes[-1].outputs[0])


def _choose_instead(patient: Patient, nodes: Sequence[ir.Node]) -> None:
    """What these nodes make of a stage's choice is its choice, by name too."""
    chosen = patient.top_k(STAGE).outputs[1]
    name, result = chosen.name, nodes[-1].outputs[0]
    patient.substitute(chosen, nodes, result)
    chosen.name, result.name = f"{name}/sound", name


def _reorder(patient: Patient, order: Callable[[int], Iterable[int]]) -> None:
    """The choice is these of all rows, best first; ``order`` is told how many are kept."""
    top_k = patient.top_k(STAGE)
    ranked = _ranked(patient)
    kept = _lead(patient) + patient.facts.keep_counts[STAGE]
    rows = list(order(kept))
    if not patient.facts.selection.nested:  # the others follow
        rows += [row for row in range(ranked) if row not in rows][: ranked - kept]
        rows += [ranked - 1] * (ranked - len(rows))
    top_k.replace_input_with(1, patient.constant(np.array([ranked])))
    taken = ir.node("Gather", [top_k.outputs[1], patient.constant(np.array(rows))], {"axis": 1})
    top_k.outputs[1].shape = None
    _choose_instead(patient, [taken])


def _one_higher(patient: Patient, gather: ir.Node) -> None:
    """A GatherND takes the rows behind those it is told, the last one clipped."""
    higher = ir.node("Add", [gather.inputs[1], patient.constant(np.array(1))])
    last = patient.constant(np.array(_ranked(patient) - 1))
    clipped = ir.node("Min", [higher.outputs[0], last])
    patient.model.graph.insert_before(gather, [higher, clipped])
    gather.replace_input_with(1, clipped.outputs[0])


def _weigh_mean(patient: Patient, change: Change) -> None:
    patient.change(patient.node(f"{_predictor(patient)}/MatMul"), 0, change)


def _returns(patient: Patient) -> list[ir.Node]:
    """The GatherND that puts both paths' rows back in place."""
    (join,) = patient.nodes("Concat", patient.parts.block)
    return [user for user, _ in join.outputs[0].uses()]
