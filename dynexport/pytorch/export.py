"""Inference form to a lean ONNX graph.

PyTorch's own exporter translates; what it leaves over is folded, freed from the batch it was
traced with, and named after the model's modules. The graph is traced once, whatever batch sizes
it will take: `dynexport.graph.batch` says how.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript.function_libs.torch_lib.ops  # torch.onnx would import it at its first export
import onnxscript.optimizer
import onnxscript.values
import torch
import torch._dynamo  # torch.export would import it at its first call
import torch.fx.config
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

from dynexport.errors import DynexportError
from dynexport.formats.metadata import Batch, ExportSpec, Metadata
from dynexport.formats.onnx_file import Exported
from dynexport.formats.reference import ReferenceBundle
from dynexport.graph.batch import free_batch, infer_shapes, set_batch
from dynexport.graph.counts import count_with_twin, recount
from dynexport.graph.names import name_after_modules
from dynexport.graph.older_opset import lower_opset
from dynexport.graph.opset import USUAL, require_opset, set_opset
from dynexport.graph.rules.dead_rows import cut_dead_rows
from dynexport.graph.selection import add_kept_outputs, find_selected
from dynexport.graph.twin import MARK, read_marks
from dynexport.models import SparseModel
from dynexport.progress import unheard

TRACED_BATCH = 2
"""Any size but 1 would do: exporters treat 1 as a constant."""


def _take_rows(x: Any, rows: Any) -> Any:
    return opset20.GatherND(x, rows, batch_dims=1)


def _lay_out_rows(x: Any, rows: Any) -> Any:
    return opset20.Gather(x, rows, axis=1)


def _in_dense_twin(here: Any, there: Any) -> Any:
    domain = onnxscript.values.Opset(MARK[0], 1)
    return onnxscript.values.Op(domain, MARK[1], MARK_SCHEMA)(here, there)


MARK_SCHEMA = onnx.defs.OpSchema(
    MARK[1],
    MARK[0],
    1,
    inputs=[onnx.defs.OpSchema.FormalParameter(name, "T") for name in ("here", "there")],
    outputs=[onnx.defs.OpSchema.FormalParameter("out", "T")],
    type_constraints=[("T", ["tensor(float)"], "")],
)
"""Of the node that marks a value for the dense twin; see `dynexport.graph.twin`."""

TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.dynexport.take_rows.default: _take_rows,
    torch.ops.dynexport.lay_out_rows.default: _lay_out_rows,
    torch.ops.dynexport.in_dense_twin.default: _in_dense_twin,
}
"""The operators of dynexport.models in ONNX: whole rows moved, one index a row."""


VIEWS = (torch.ops.aten.flatten.using_ints, torch.ops.aten.unflatten.int)
"""Their translations would compute at run time, or leave to be inferred, a size that is known."""


class OutputsOnly(nn.Module):
    """A model as the exporter should see it: images in, outputs out."""

    def __init__(self, model: SparseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images).outputs.values())


def export_onnx(
    model: SparseModel, spec: ExportSpec, *, emit_kept: bool = False, opset: int = USUAL
) -> Exported:
    """The graph of an inference form: ``images`` float32 (B, C, H, W) -> its outputs by name.

    With ``emit_kept`` also ``kept_0 ...`` int64 (B, K), see `dynexport.graph.selection`. The
    metadata are ``spec`` and what is counted on the graph. The same model gives the same bytes.
    """
    require_opset(opset)
    config = model.config
    example = torch.zeros(TRACED_BATCH, config.in_chans, *config.img_size)
    exported_to = max(opset, USUAL)
    graph = _translate(OutputsOnly(model), example, list(spec.outputs), exported_to)
    _fold_constants(graph)
    free_batch(graph)
    RemoveUnusedNodesPass()(graph)
    name_after_modules(graph, root="model")
    stages = len(spec.keep_counts)
    marks = read_marks(graph)
    if stages and not marks:
        raise DynexportError(
            "the model drops tokens but marks nothing with in_dense_twin, so it has no dense twin: "
            "this is a fault of its inference form"
        )
    selected = find_selected(graph, model.sparsifiers, stages)
    set_batch(graph, Batch.parse(spec.batch))
    if cut_dead_rows(graph):
        infer_shapes(graph)
    set_opset(graph, exported_to)
    if opset < USUAL:
        lower_opset(graph, opset)
    graph.producer_name = "dynexport"
    graph.producer_version = spec.versions["dynexport"]
    graph.metadata_props.clear()
    known = {field.name: getattr(spec, field.name) for field in dataclasses.fields(ExportSpec)}
    counts = count_with_twin(graph, marks, selected)
    metadata = Metadata(**known, selected=selected, dense_twin=marks, **vars(counts))
    if emit_kept:
        add_kept_outputs(graph, metadata)
        metadata = recount(graph, metadata)
    return Exported(graph, metadata)


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


def _translate(module: nn.Module, example: Tensor, outputs: list[str], opset: int) -> ir.Model:
    """PyTorch's exporter, quietly: its remarks are about operators these models do not use."""
    traces = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True  # one a node: nobody reads them here
    try:
        with torch.no_grad(), unheard("torch.onnx"):
            program = torch.export.export(module, (example,), strict=False)
            _decompose_only_if_needed(program)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                input_names=["images"],
                output_names=outputs,
                custom_translation_table=TRANSLATIONS,
            )
    except ImportError as error:  # each release of PyTorch has a module of its own in onnxscript
        if not str(error.name).startswith("onnxscript."):
            raise
        raise DynexportError(
            f"PyTorch {torch.__version__} asks for {error.name}, which onnxscript "
            f"{onnxscript.__version__} does not have: run  pip install -U onnxscript"
        ) from None
    finally:
        torch.fx.config.do_not_emit_stack_traces = traces
    assert exported is not None
    return exported.model


def _decompose_only_if_needed(program: torch.export.ExportedProgram) -> None:
    """Let a program that has nothing to decompose be translated as it is.

    The exporter traces every program anew, twice, to take apart the operators in its table: those
    that have no translation. Models that use others alone, and none that writes in place, come
    out as they went in, but for views, which get their size; a third of the export for that.
    """
    decompose = program.run_decompositions

    def run_decompositions(table: Mapping[Any, Callable[..., Any]]) -> Any:
        called = [node for node in program.graph.nodes if node.op == "call_function"]
        for target in {node.target for node in called} - {operator.getitem}:
            plain = isinstance(target, torch._ops.OpOverload) and not target._schema.is_mutable
            if not plain or target in table:
                return decompose(dict(table))
        for node in called:
            if node.target in VIEWS:
                node.args = (node.args[0], list(node.meta["val"].shape))
                node.target = torch.ops.aten.reshape.default
        return program

    program.run_decompositions = run_decompositions


@torch.inference_mode()
def record_reference(model: SparseModel, spec: ExportSpec, images: NDArray[Any]) -> ReferenceBundle:
    """What an inference form says of images: outputs, kept sets and scores.

    images: uint8 (P, H, W, C), or float32 (P, C, H, W) already normalised.
    """
    positions = spec.selection.positions(spec.num_tokens, len(spec.keep_counts))
    output = model(torch.from_numpy(spec.preprocessing.to_input(images)))
    return ReferenceBundle(
        images=images,
        outputs={name: value.numpy() for name, value in output.outputs.items()},
        kept=tuple(kept.sort(dim=1).values.numpy() for kept in output.tokens.kept),
        scores=tuple(
            _on_grid(scores, ranked, positions).numpy()
            for scores, ranked in zip(
                output.tokens.scores, _ranked_positions(output.tokens.kept, spec), strict=True
            )
        )
        if output.tokens.kept
        else (),
        made_for=ReferenceBundle.identity(spec),
    )


def _ranked_positions(kept: tuple[Tensor, ...], spec: ExportSpec) -> list[Tensor]:
    """Per stage the positions it ranked, in the order of its scores: int64 (B, N_left)."""
    batch, selection, tokens = len(kept[0]), spec.selection, spec.num_tokens
    ranked = [torch.arange(tokens).expand(batch, -1)]
    for stage, chosen in enumerate(kept[:-1]):
        behind = torch.tensor(selection.appended_by(stage, tokens), dtype=torch.int64)
        appended = behind.expand(batch, -1)
        ranked.append(torch.cat([chosen, appended], dim=1) if selection.nested else ranked[0])
    return ranked


def _on_grid(scores: Tensor, ranked: Tensor, positions: int) -> Tensor:
    """Scores (B, N_left) of the tokens ``ranked`` put where they stand: (B, positions), -inf
    where nothing was ranked."""
    grid = scores.new_full((len(scores), positions), -torch.inf)
    return grid.scatter(1, ranked, scores)
