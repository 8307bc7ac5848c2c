"""Noise of a training form: Gumbel masks, dropout."""

from __future__ import annotations

from collections.abc import Iterator

from dynexport.graph.patterns import constant, label
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.view import RANDOM, View


def find_random_numbers(view: View) -> Iterator[Finding]:
    """Noise of a training form: Gumbel masks, dropout."""
    for node in view.nodes:
        training = node.op_type == "Dropout" and len(node.inputs) > 2 and constant(node.inputs[2])
        if node.op_type in RANDOM or training:
            what = "it draws random numbers: this is a model as it is trained"
            fix = "export what runs at inference: model.eval(), and no Gumbel noise"
            yield Finding("random", "inexact", label(node), what, fix)


RULE = Rule("random", "random numbers, as a training form draws them", find_random_numbers)
