"""All rules, in the order they run: `check` asks each for what it finds, `optimize` applies it."""

from __future__ import annotations

from importlib import import_module

from dynexport.graph.rule import Rule

ORDER = (
    "duplicates",
    "fixed_shapes",
    "open_dimension",
    "baked_batch",
    "negative_perm",
    "top_k",
    "sorts",
    "data_dependent",
    "random_numbers",
    "quantised_operator",
    "quantised_bias",
    "zero_points",
    "quantised_type",
    "row_gathers",
    "scatters",
    "uniform",
    "log_softmax",
    "layer_norm",
    "gelu",
    "dead_rows",
    "unfused_attention",
    "late_scale",
    "attention_operator",
    "scatter_reduction",
    "fused",
)
"""Their files. One makes room for another, so `optimize` applies them in turn until none applies;
the last one once, when the graph is otherwise finished."""

RULES: tuple[Rule, ...] = tuple(import_module(f"{__package__}.{name}").RULE for name in ORDER)
LAST: Rule = RULES[-1]
