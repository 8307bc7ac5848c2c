"""What bounds rows: told through arithmetic, and not through an unrolled loop of it."""

from __future__ import annotations

import onnx_ir as ir
from made.small_graphs import in_memory, small_graph

from dynexport.graph.flat_index import bounds_of
from dynexport.graph.sizes import learn_sizes


def bounds_behind(steps: int, operator: str, other: str) -> tuple[int, int] | None:
    """Of the rows a TopK of 16 gives, after so many steps of arithmetic."""
    body = "best, r0 = TopK <axis = 1> (scores, six)\n" + "\n".join(
        f"r{step + 1} = {operator} (r{step}, {other.format(step=step)})" for step in range(steps)
    )
    graph = in_memory(small_graph(f"{body} y = Identity (r{steps})", "int64[2, 6] y"))
    learn_sizes(graph)
    (value,) = (node.inputs[0] for node in graph.graph if node.op_type == "Identity")
    assert isinstance(value, ir.Value)
    return bounds_of(value)


def test_bounds_follow_arithmetic() -> None:
    assert bounds_behind(0, "Add", "one") == (0, 15)
    assert bounds_behind(3, "Add", "one") == (3, 18)
    assert bounds_behind(2, "Sub", "r0") == (-30, 15)


def test_what_is_added_to_itself_is_looked_at_once() -> None:
    """Else each step would double the work."""
    assert bounds_behind(40, "Add", "r{step}") == (0, 15 * 2**40)


def test_a_long_loop_over_rows_is_not_followed() -> None:
    assert bounds_behind(1500, "Add", "one") is None
