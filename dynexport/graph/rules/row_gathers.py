"""Rows moved whole: gathers with an index a row.

The graph has one an element, or flattens the batch and adds offsets.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dynexport.graph.constants import int64_constant
from dynexport.graph.edits import drop_unused, put_before, put_in_place, put_row_gather
from dynexport.graph.flat_index import bounds_of, flattened, is_image_number, rows_within
from dynexport.graph.patterns import (
    ALIASES,
    axis_of,
    integers,
    label,
    nodes_of,
    producer,
    sizes_of,
    through,
)
from dynexport.graph.rule import Finding, Rule
from dynexport.graph.sizes import Facts, learn_sizes
from dynexport.graph.view import View

INDEX = ir.DataType.INT64


def find_row_gathers(view: View) -> Iterator[Finding]:
    """Rows gathered element by element: torch.gather with an expanded index."""
    for node in view.all("GatherElements"):
        if has_expanded_index(view, node):
            what = "it gathers rows with an index for each of their elements"
            change = "use one index a row: GatherND with batch_dims=1"
            fix = view.fix(change, node, rewritten=_expanded_rows(node) is not None)
            yield Finding("expanded-index", "slow", label(node), what, fix)


def has_expanded_index(view: View, node: ir.Node) -> bool:
    """Whether a node's index is computed, and repeated for the elements of each row."""
    index = through(node.inputs[1], *ALIASES)
    return producer(index, "Expand", "Tile") is not None and view.varies(index)


def gather_rows(model: ir.Model) -> int:
    """Write gathers of rows as GatherND with batch_dims=1; returns how many there were.

    Three ways to say it are known: GatherElements with an index expanded over the channels,
    GatherND by pairs of an image's number and a row, and a gather on the flattened batch whose
    index is a row plus its image's number times the rows an image has. The last needs rows that
    are known to lie within their image.
    """
    facts = learn_sizes(model)
    for node in nodes_of(model, "Mod"):
        _drop_remainder(node)
    found = sum(_from_pairs(node, facts) for node in nodes_of(model, "GatherND"))
    found += sum(_from_elements(node) for node in nodes_of(model, "GatherElements"))
    for node in nodes_of(model, "Gather", "GatherND"):
        found += _from_flat(model, node, facts)
    if found:
        drop_unused(model)
    return found


def _from_elements(node: ir.Node) -> bool:
    """GatherElements(x (B, N, C), Expand(rows (B, K, 1))) on axis 1."""
    rows, made, given = _expanded_rows(node), node.outputs[0], sizes_of(node.inputs[1])
    if rows is None or given is None:
        return False
    index = _as_int64(node, rows, [*given[:2], 1])
    new = put_row_gather(node, node.inputs[0], index, name=f"{made.name}/rows", shape=given)
    put_in_place(made, new)
    return True


def _expanded_rows(node: ir.Node) -> ir.Value | None:
    """The rows (B, K, 1) that index all elements of what a GatherElements takes of (B, N, C)."""
    sizes, given = sizes_of(node.inputs[0]), sizes_of(node.inputs[1])
    expand = producer(node.inputs[1], "Expand", "Tile")
    if expand is None or sizes is None or given is None or len(sizes) != 3:
        return None
    if node.attributes.get_int("axis", 0) not in (1, -2) or len(given) != 3:
        return None
    whole, rows = [sizes[0], given[1], sizes[2]], expand.inputs[0]
    if None in whole or given != whole or sizes_of(rows) != [sizes[0], given[1], 1]:
        return None
    return rows


def _drop_remainder(node: ir.Node) -> None:
    """Rows that are below what they are divided by are what is left of them."""
    source, divisor = node.inputs[0], integers(node.inputs[1])
    reach, same = bounds_of(source), sizes_of(source) == sizes_of(node.outputs[0])
    if source is None or reach is None or not divisor or not same:
        return
    if reach[0] >= 0 and reach[1] < min(divisor):
        put_in_place(node.outputs[0], source)


def _from_pairs(node: ir.Node, facts: Facts) -> bool:
    """GatherND(x (B, N, ...), pairs (B, K, 2)), the first of each pair the image's number."""
    data, made = node.inputs[0], node.outputs[0]
    pairs, sizes = producer(node.inputs[1], "Concat"), sizes_of(data)
    if pairs is None or len(pairs.inputs) != 2 or node.attributes.get_int("batch_dims", 0) != 0:
        return False
    image, rows = pairs.inputs
    own = sizes_of(rows)
    if axis_of(pairs, rows) != 2 or sizes is None or own is None or own[0] != sizes[0]:
        return False
    if own[2:] != [1] or None in own or sizes_of(image) != own:
        return False
    if not is_image_number(image, facts, sizes[0]):
        return False
    new = put_row_gather(node, data, rows, name=f"{made.name}/rows", shape=[*own[:2], *sizes[2:]])
    put_in_place(made, new)
    return True


def _from_flat(model: ir.Model, node: ir.Node, facts: Facts) -> bool:
    """Gather(x (B * N, ...), (rows + offset) (B * K)), reshaped to (B, K, ...)."""
    made = node.outputs[0]
    axis = node.attributes.get_int("axis" if node.op_type == "Gather" else "batch_dims", 0)
    batch = flattened(node.inputs[0])
    if axis != 0 or batch is None or made.is_graph_output():
        return False
    if node.op_type == "GatherND" and (sizes_of(node.inputs[1]) or [0])[-1] != 1:
        return False
    rows, sizes = rows_within(node.inputs[1], facts, batch), sizes_of(batch)
    own = sizes_of(rows)
    if rows is None or sizes is None or own is None:
        return False
    whole = [*own, *sizes[2:]]
    users = [use.node for use in made.uses()]
    if any(user.op_type != "Reshape" or sizes_of(user.outputs[0]) != whole for user in users):
        if sizes_of(made) != whole:  # a Gather by an index (B, K) gives that at once
            return False
        users = [node]
    index = put_before(
        node,
        "Unsqueeze",
        [_as_int64(node, rows, own), int64_constant(model, [-1])],
        name=f"{made.name}/index",
        shape=[*own, 1],
        dtype=INDEX,
    )
    new = put_row_gather(node, batch, index, name=f"{made.name}/rows", shape=whole)
    for user in users:
        put_in_place(user.outputs[0], new)
    return True


def _as_int64(
    node: ir.Node, rows: ir.Value | None, shape: list[int | str | None]
) -> ir.Value | None:
    if rows is None or rows.dtype == INDEX:
        return rows
    name = f"{node.outputs[0].name}/int64"
    return put_before(node, "Cast", [rows], {"to": int(INDEX)}, name=name, shape=shape, dtype=INDEX)


RULE = Rule(
    "row-gathers",
    "gathers by element or flat index made gathers of rows",
    find_row_gathers,
    gather_rows,
)
