"""Rules applied to a graph one after the other, none of which may harm it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from dynexport.errors import ModelFileError
from dynexport.graph.folding import working_nodes
from dynexport.graph.rule import Rule
from dynexport.graph.rules.order import LAST, RULES
from dynexport.graph.sizes import learn_sizes

ROUNDS = 4
"""How often the rules run in turn, at most."""


@dataclass(frozen=True)
class PassReport:
    """What a rule did: how often it applied, to what, and why it was left out where it was."""

    name: str
    applied: int
    what: str
    left_out: str = ""


def apply_rules(
    model: ir.Model, problem_with: Callable[[ir.Model], str]
) -> tuple[ir.Model, tuple[PassReport, ...]]:
    """A copy with every rule applied that leaves a sound graph, and what each rule did.

    ``problem_with`` says what is wrong with a graph, and nothing where nothing is. Rules that
    neither applied nor were left out are not reported.
    """
    counts: dict[str, int] = {}
    left_out: dict[str, str] = {}
    rules = [rule for rule in RULES if rule.apply is not None]
    turns = [rule for rule in rules if rule is not LAST] * ROUNDS
    for rule in (*turns, LAST):
        if rule.name in left_out:
            continue
        try:
            changed, count = _apply(rule, model)
            problem = problem_with(changed) if count else ""
        except Exception as error:  # a graph unlike those it was written for
            lines = str(error).strip().splitlines()
            problem, count = f"it failed: {lines[0] if lines else type(error).__name__}", 0
        if problem:
            left_out[rule.name] = problem
        elif count:
            model, counts[rule.name] = changed, counts.get(rule.name, 0) + count
    reports = (
        PassReport(rule.name, counts.get(rule.name, 0), rule.what, left_out.get(rule.name, ""))
        for rule in rules
    )
    return model, tuple(report for report in reports if report.applied or report.left_out)


def has_gained(reports: Sequence[PassReport], before: ir.Model, after: ir.Model) -> bool:
    """Whether a rule applied; what is joined last may be what was joined before."""
    applied = {report.name for report in reports if report.applied}
    joined = working_nodes(before) == working_nodes(after)
    return bool(applied - {LAST.name} if joined else applied)


def _apply(rule: Rule, model: ir.Model) -> tuple[ir.Model, int]:
    """A copy with a rule applied, and how often it was; ModelFileError if that broke the graph."""
    changed = model.clone()
    count = 0 if rule.apply is None else rule.apply(changed)
    if count:
        onnx.checker.check_model(ir.serde.serialize_model(changed))
        if not changed.functions:
            learn_sizes(changed)
        for before, after in zip(model.graph.outputs, changed.graph.outputs, strict=True):
            if before.name != after.name or before.dtype != after.dtype:
                raise ModelFileError(f"the output {before.name} is not as it was")
    return changed, count
