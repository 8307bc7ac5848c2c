"""A graph to the bytes of an engine, in memory."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from dynexport.check import fixes_for
from dynexport.engine.batches import profiles_of
from dynexport.errors import BuildError
from dynexport.formats.metadata import Batch
from dynexport.formats.onnx_file import as_source
from dynexport.graph.functions import in_standard
from dynexport.progress import OnProgress
from dynexport.runtimes.tensorrt import Edition
from dynexport.runtimes.tensorrt.builder import EnginePlan, build
from dynexport.runtimes.tensorrt.options import BuildOptions


def build_plan(
    edition: Edition,
    graph: ir.Model,
    ranges: Sequence[Batch],
    options: BuildOptions,
    on_progress: OnProgress = lambda phase, done, steps: None,
) -> EnginePlan:
    """Build a graph in memory; a BuildError tells what to change, where a rule knows it."""
    profiles = profiles_of(graph, ranges)
    try:
        with as_source(in_standard(graph)) as source:
            return build(edition, source, profiles, options, on_progress)
    except BuildError as error:
        fixes = fixes_for(graph, str(error))
        if not fixes:
            raise
        raise BuildError(f"{error}: {'; '.join(fixes)}") from None
