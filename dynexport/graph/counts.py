"""How large a graph and its dense twin are: what sparsity could give, and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from dynexport.errors import DynexportError
from dynexport.formats.metadata import Batch, Metadata
from dynexport.graph.batch import set_batch
from dynexport.graph.macs import count_macs
from dynexport.graph.twin import dense_twin


@dataclass(frozen=True)
class Counts:
    """Multiply-accumulates for one image and nodes, of a graph and of its dense twin.

    They are named as the metadata name them.
    """

    macs_dense: int
    macs_sparse: int
    nodes_dense: int
    nodes: int


def count_with_twin(graph: ir.Model, marks: Mapping[str, str], selected: Collection[str]) -> Counts:
    """Count on the graphs themselves; the graph given stays as it is.

    marks, selected: the metadata's ``dense_twin`` and ``selected``. DynexportError if the twin
    still selects rows.
    """
    twin = dense_twin(graph.clone(), marks) if marks else graph
    left = {value.name for node in twin.graph for value in node.outputs} & {*selected}
    if left and marks:
        raise DynexportError(
            f"the dense twin still selects rows ({min(map(str, left))}): a value that selection "
            "changes is not marked with in_dense_twin, a fault of the model's inference form"
        )
    return Counts(
        macs_dense=count_macs(_sized(twin)),
        macs_sparse=count_macs(_sized(graph)),
        nodes_dense=twin.graph.num_nodes(),
        nodes=graph.graph.num_nodes(),
    )


def _sized(graph: ir.Model) -> ir.Model:
    """The graph, or a copy for one image where its shapes do not tell of how many they are.

    Windows multiply an open batch into what stands beside it, and the product has no name.
    """
    batch = None if (shape := graph.graph.inputs[0].shape) is None else shape[0]
    sizes = [value.shape or () for node in graph.graph for value in node.outputs]
    if all(isinstance(size, int) or size == batch for shape in sizes for size in shape):
        return graph
    single = graph.clone()
    set_batch(single, Batch(1, 1, 1))
    return single


def recount(graph: ir.Model, metadata: Metadata) -> Metadata:
    """The metadata of a graph that was changed: the same, counted anew."""
    counts = count_with_twin(graph, metadata.dense_twin, metadata.selected)
    return dataclasses.replace(metadata, **vars(counts))
