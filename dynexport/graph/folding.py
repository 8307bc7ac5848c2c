"""Shapes computed at run time that are known before: chains of Shape, Gather, Concat, Range."""

from __future__ import annotations

import onnx_ir as ir

from dynexport.graph.constants import add_constant, int64_constant
from dynexport.graph.edits import drop_unused, put_before, put_in_place
from dynexport.graph.patterns import constant, is_standard, nodes_of, sizes_of
from dynexport.graph.sizes import Facts, learn_sizes


def fold_fixed_shapes(model: ir.Model) -> int:
    """Compute what depends on constants and fixed sizes alone; returns how many nodes that saved.

    A Reshape to sizes of which one is open copies it (0) or infers it (-1), and
    an Expand takes the sizes it does not change from what it expands. An If whose condition is
    known gives way to the branch it takes.
    """
    drop_unused(model)
    before, taken = working_nodes(model), 0
    while True:
        fold_sizes(model)
        branches = _take_branches(model)
        taken += branches
        if not branches:
            break
    drop_unused(model)
    return max(before - working_nodes(model), 0) + taken


def fold_sizes(model: ir.Model) -> None:
    """Compute what depends on constants and fixed sizes alone; the nodes that did stay, unread."""
    facts = learn_sizes(model)
    _store(model, facts)
    _free_reshapes(model, facts)
    _free_expands(model, facts)
    _rebuild_open_shapes(model, facts)
    _drop_no_ops(model)


def working_nodes(model: ir.Model) -> int:
    """Nodes that compute something: all but those that hold a constant."""
    return model.graph.num_nodes() - len(nodes_of(model, "Constant"))


def _store(model: ir.Model, facts: Facts) -> None:
    """Constants in the place of nodes that always give the same."""
    for node in list(model.graph):
        if node.op_type == "Constant":
            continue
        for value in node.outputs:
            array = facts.known.get(value)
            if array is not None and (value.uses() or value.is_graph_output()):
                stored = add_constant(model, f"{value.name}/folded", array)
                put_in_place(value, stored)
                facts.known[stored] = array


def _free_reshapes(model: ir.Model, facts: Facts) -> None:
    """A constant as the target of each Reshape where all sizes but one are known."""
    for node in nodes_of(model, "Reshape"):
        data, made = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
        if data is None or made is None or constant(node.inputs[1]) is not None:
            continue
        copied = [
            0 if not isinstance(size, int) and size and data[axis : axis + 1] == [size] else size
            for axis, size in enumerate(made)
        ]
        free = [size if isinstance(size, int) else -1 for size in copied]
        if 0 in made or free.count(-1) > 1:
            continue
        node.replace_input_with(1, int64_constant(model, free))
        node.attributes.pop("allowzero", None)


def _free_expands(model: ir.Model, facts: Facts) -> None:
    """A constant as the target of each Expand that changes fixed sizes alone."""
    for node in nodes_of(model, "Expand"):
        data, made = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
        if data is None or made is None or constant(node.inputs[1]) is not None:
            continue
        asked = facts.numbers(node.inputs[1])
        if asked is None or len(asked) != len(made):
            continue
        aligned = [None] * (len(made) - len(data)) + data
        free = [
            size if isinstance(size, int) else 1 if size and size == own else None
            for size, own in zip(made, aligned, strict=True)
        ]
        if None not in free and 0 not in free:
            node.replace_input_with(1, int64_constant(model, [int(size or 1) for size in free]))


def _rebuild_open_shapes(model: ir.Model, facts: Facts) -> None:
    """Sizes chosen among by Where, as exporters do for a size they are not to change, read off the
    graph's inputs at once."""
    if model.opset_imports.get("", 0) < 15:  # Shape of some dimensions alone
        return
    named = {
        size: (value, axis)
        for value in model.graph.inputs
        for axis, size in enumerate(sizes_of(value) or ())
        if isinstance(size, str)
    }
    for node in nodes_of(model, "Where"):
        made = node.outputs[0]
        numbers = facts.partly.get(made)
        if numbers is None or numbers.ndim != 1 or made.dtype != ir.DataType.INT64:
            continue
        if not all(size in named for size in numbers if not isinstance(size, int)):
            continue
        parts = [_size_part(model, node, size, place, named) for place, size in enumerate(numbers)]
        new = put_before(
            node,
            "Concat",
            parts,
            {"axis": 0},
            name=f"{made.name}/sizes",
            shape=[len(parts)],
            dtype=made.dtype,
        )
        put_in_place(made, new)


def _size_part(
    model: ir.Model,
    node: ir.Node,
    size: int | str,
    place: int,
    named: dict[str, tuple[ir.Value, int]],
) -> ir.Value:
    if isinstance(size, int):
        return int64_constant(model, [size])
    source, axis = named[size]
    return put_before(
        node,
        "Shape",
        [source],
        {"start": axis, "end": axis + 1},
        name=f"{node.outputs[0].name}/size_{place}",
        shape=[1],
        dtype=ir.DataType.INT64,
    )


def _drop_no_ops(model: ir.Model) -> None:
    """Nodes that give what they are given: a Cast to the same type, an Expand to the same shape."""
    for node in list(model.graph):
        if not is_standard(node) or not node.inputs or node.inputs[0] is None:
            continue
        source = _same_as(node)
        if source is not None and not node.outputs[0].is_graph_output():
            put_in_place(node.outputs[0], source)


def _same_as(node: ir.Node) -> ir.Value | None:
    """The input that a node gives unchanged."""
    first, made = node.inputs[0], node.outputs[0]
    if node.op_type == "Cast":
        kept = first is not None and first.dtype == made.dtype and made.dtype is not None
        return first if kept else None
    sizes = sizes_of(made)
    if sizes is None or None in sizes:
        return None
    if node.op_type in ("Expand", "Reshape"):
        return first if sizes_of(first) == sizes else None
    return None


def _take_branches(model: ir.Model) -> int:
    """Put the branch in the place of each If whose condition is known; how many there were."""
    taken = 0
    for node in nodes_of(model, "If"):
        condition = constant(node.inputs[0])
        if condition is None or condition.size != 1:
            continue
        name = "then_branch" if condition.item() else "else_branch"
        branch = node.attributes[name].as_graph()
        prefix = f"{node.name or node.outputs[0].name}/{name}"
        for value in list(branch.initializers.values()):
            _move_constant(model, value, f"{prefix}/{value.name}")
        outputs, inner = list(branch.outputs), list(branch)
        branch.outputs.clear()
        branch.remove(inner)
        for each in inner:
            each.name = f"{prefix}/{each.name}"
            for value in each.outputs:
                value.name = f"{prefix}/{value.name}"
        model.graph.insert_before(node, inner)
        for old, new in zip(node.outputs, outputs, strict=True):
            put_in_place(old, new)
        model.graph.remove(node, safe=True)
        taken += 1
    return taken


def _move_constant(model: ir.Model, value: ir.Value, name: str) -> None:
    """A constant of a branch, among those of the whole graph."""
    array = constant(value)
    if array is not None:
        ir.convenience.replace_all_uses_with(
            value, add_constant(model, name, array), replace_graph_outputs=True
        )
