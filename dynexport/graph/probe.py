"""A copy of a graph that gives intermediate values as well."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from dynexport.graph.selection import named_values


def with_outputs(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy whose outputs are its own and the values of these names."""
    probe = model.clone()
    ends = set(probe.graph.outputs)
    values = named_values(probe, sorted(names))
    probe.graph.outputs.extend(value for value in values.values() if value not in ends)
    return probe
