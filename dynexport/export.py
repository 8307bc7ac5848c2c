"""Inference form to a lean ONNX graph.

PyTorch's own exporter translates; what it leaves over is folded, freed from the batch it was
traced with, and named after the model's modules. The graph is traced once, whatever batch sizes
it will take: `dynexport.graph.batch` says how.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.function_libs.torch_lib.ops  # torch.onnx would import it at its first export
import onnxscript.optimizer
import torch
import torch._dynamo  # torch.export would import it at its first call
import torch.onnx
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript import opset20
from torch import Tensor, nn

from dynexport.errors import InputError
from dynexport.graph.batch import free_batch, set_batch
from dynexport.graph.macs import count_macs
from dynexport.graph.names import name_after_modules
from dynexport.graph.selection import add_kept_outputs, dense_twin
from dynexport.metadata import Batch, Metadata
from dynexport.models import SparseModel
from dynexport.reference import ReferenceBundle

TRACED_BATCH = 2
"""Any size but 1 would do: exporters treat 1 as a constant."""

OPSETS = (20, 21, 22, 23)
"""20 brought Gelu. Newer ones change nothing these graphs use."""


def _take_rows(x: Any, rows: Any) -> Any:
    return opset20.GatherND(x, rows, batch_dims=1)


def _number_rows(rows: Any) -> Any:
    """The item's number is a running sum over the batch, so that no constant holds its size."""
    op: Any = opset20
    one = op.Add(op.Sub(rows, rows), op.Constant(value_ints=[1]))
    items = op.CumSum(one, op.Constant(value_int=0), exclusive=1)
    return op.Concat(items, rows, axis=-1)


def _take_places(x: Any, places: Any) -> Any:
    return opset20.GatherND(x, places)


def _put_places(x: Any, places: Any, rows: Any) -> Any:
    return opset20.ScatterND(x, places, rows)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.dynexport.take_rows.default: _take_rows,
    torch.ops.dynexport.number_rows.default: _number_rows,
    torch.ops.dynexport.take_places.default: _take_places,
    torch.ops.dynexport.put_places.default: _put_places,
}
"""The operators of dynexport.models in ONNX: whole rows moved, one index a row."""


class LogitsOnly(nn.Module):
    """A model as the exporter should see it: one tensor in, one tensor out."""

    def __init__(self, model: SparseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


def export_onnx(
    model: SparseModel,
    metadata: Metadata,
    batch: Batch,
    *,
    emit_kept: bool = False,
    opset: int = OPSETS[0],
) -> ir.Model:
    """The graph of an inference form: ``images`` float32 (B, 3, H, W) -> ``logits`` (B, classes).

    With ``emit_kept`` also ``kept_0 ...`` int64 (B, K), see `dynexport.graph.selection`. The
    graph carries ``metadata``, its multiply-accumulates and its dense twin's counted on the
    graphs themselves. The same model gives the same bytes.
    """
    if opset not in OPSETS:
        choices = ", ".join(map(str, OPSETS))
        raise InputError(f"opset {opset} is not supported: choose from {choices}")
    config = model.config
    example = torch.zeros(TRACED_BATCH, config.in_chans, config.img_size, config.img_size)
    graph = _translate(LogitsOnly(model), example, opset)
    _fold_constants(graph)
    free_batch(graph)
    RemoveUnusedNodesPass()(graph)
    name_after_modules(graph, root="model")
    set_batch(graph, batch)
    if emit_kept:
        add_kept_outputs(graph, metadata.selection)
    graph.producer_name = "dynexport"
    graph.producer_version = metadata.versions["dynexport"]
    graph.metadata_props.clear()
    graph.metadata_props.update(count_on(graph, metadata).to_properties())
    return graph


def count_on(graph: ir.Model, metadata: Metadata) -> Metadata:
    """The metadata with nodes and multiply-accumulates of this graph and of its dense twin."""
    twin = dense_twin(graph.clone()) if metadata.keep_counts else graph
    return dataclasses.replace(
        metadata,
        macs_dense=count_macs(twin),
        macs_sparse=count_macs(graph),
        nodes_dense=twin.graph.num_nodes(),
        nodes=graph.graph.num_nodes(),
    )


def _fold_constants(graph: ir.Model) -> None:
    """Compute what does not depend on the images, at any size: transposed weights, shapes."""
    InlinePass()(graph)
    onnxscript.optimizer.fold_constants(
        graph, onnx_shape_inference=False, input_size_limit=2**62, output_size_limit=2**62
    )
    passes: tuple[Any, ...] = (
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        DeduplicateInitializersPass(),
        CommonSubexpressionEliminationPass(),
    )
    for tidy in passes:
        tidy(graph)


def _translate(module: nn.Module, example: Tensor, opset: int) -> ir.Model:
    """PyTorch's exporter, quietly: its remarks are about operators these models do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                custom_translation_table=TRANSLATIONS,
            )
    finally:
        logger.setLevel(level)
    assert exported is not None
    return exported.model


@torch.inference_mode()
def record_reference(
    model: SparseModel, metadata: Metadata, images: NDArray[Any]
) -> ReferenceBundle:
    """What an inference form says of images: logits, kept sets and scores.

    images: uint8 (P, H, W, 3), or float32 (P, 3, H, W) already normalised.
    """
    ready = images if images.dtype == np.float32 else metadata.preprocessing.normalise(images)
    output = model(torch.from_numpy(ready))
    return ReferenceBundle(
        images=images,
        logits=output.logits.numpy(),
        kept=tuple(kept.sort(dim=1).values.numpy() for kept in output.tokens.kept),
        scores=tuple(
            _on_grid(scores, before, metadata.num_tokens).numpy()
            for scores, before in zip(
                output.tokens.scores, (None, *output.tokens.kept[:-1]), strict=True
            )
        )
        if output.tokens.kept
        else (),
        made_for=ReferenceBundle.identity(metadata),
    )


def _on_grid(scores: Tensor, positions: Tensor | None, tokens: int) -> Tensor:
    """Scores of the tokens left, (B, N_left), put where they stand in the grid: (B, N), -inf
    where nothing is left. ``positions`` None: all are."""
    if positions is None or scores.shape[1] == tokens:
        return scores
    grid = scores.new_full((len(scores), tokens), -torch.inf)
    return grid.scatter(1, positions, scores)
