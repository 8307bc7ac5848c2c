"""Rules: one file each, all listed once, in the order they run."""

from __future__ import annotations

from pathlib import Path

from dynexport.graph import rules
from dynexport.graph.rules.order import LAST, ORDER, RULES


def test_each_file_is_listed_once_and_declares_a_rule() -> None:
    files = {path.stem for path in Path(str(rules.__file__)).parent.glob("*.py")}
    assert sorted(ORDER) == sorted(files - {"__init__", "order"})
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.what
        assert rule.find is not None or rule.apply is not None


def test_what_is_joined_last_makes_room_for_nothing() -> None:
    assert LAST.name == "fused"
    assert [rule.name for rule in RULES if rule.apply is not None] == [
        *("duplicates", "fixed-shapes", "sorts", "row-gathers", "scatters", "uniform"),
        *("log-softmax", "layer-norm", "gelu", "dead-rows", "fused"),
    ]
