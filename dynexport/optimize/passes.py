"""Rules applied to a graph one after the other, none of which may harm it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.errors import ModelFileError, first_line
from dynexport.formats.onnx_file import require_valid
from dynexport.graph.folding import working_nodes
from dynexport.graph.rule import Rule
from dynexport.graph.rules.order import LAST, RULES
from dynexport.graph.sizes import Facts, handed_over, learn_sizes

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
    model: ir.Model, facts: Facts, problem_with: Callable[[ir.Model], str]
) -> tuple[ir.Model, tuple[PassReport, ...]]:
    """A copy with every rule applied that leaves a sound graph, and what each rule did.

    ``facts`` are what `learn_sizes` told of the graph.
    ``problem_with`` says what is wrong with a graph, and nothing where nothing is. Rules that
    neither applied nor were left out are not reported.
    """
    counts: dict[str, int] = {}
    left_out: dict[str, str] = {}
    asked_at: dict[str, int] = {}
    rules = [rule for rule in RULES if rule.apply is not None]
    turns = [rule for rule in rules if rule is not LAST] * ROUNDS
    sound, model = model, model.clone()
    facts = facts.of_copy(sound, model)
    for rule in (*turns, LAST):
        changes = sum(counts.values())
        if rule.name in left_out or asked_at.get(rule.name) == changes:
            continue  # nothing is other than when it was asked last
        asked_at[rule.name] = changes
        try:
            count, facts = _apply(rule, model, facts, sound)
            problem = problem_with(model) if count else ""
        except Exception as error:  # a graph unlike those it was written for
            problem, count = f"it failed: {first_line(error)}", 0
        if problem:
            left_out[rule.name] = problem
            model = sound.clone()
            facts = learn_sizes(model)
        elif count:
            counts[rule.name] = counts.get(rule.name, 0) + count
            sound = model if rule is LAST else model.clone()
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


def _apply(rule: Rule, model: ir.Model, facts: Facts, before: ir.Model) -> tuple[int, Facts]:
    """Apply a rule to a graph, of which ``before`` is a copy; how often it was, and what is known
    of the graph now.

    ModelFileError if that broke the graph. A rule that does not apply leaves it as it is.
    """
    with handed_over(model, facts):
        count = 0 if rule.apply is None else rule.apply(model)
    if not count:
        return 0, facts
    require_valid(model)
    if not model.functions:
        facts = learn_sizes(model)
    for old, new in zip(before.graph.outputs, model.graph.outputs, strict=True):
        if old.name != new.name or old.dtype != new.dtype:
            raise ModelFileError(f"the output {old.name} is not as it was")
    return count, facts
