"""Operators of our own: what PyTorch can only say element by element, said by the row.

They are opaque to an exporter, which so sees one operator and translates it to one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("dynexport", "DEF")


def _define(schema: str, compute: Callable[..., Tensor], shape: Callable[..., Tensor]) -> Any:
    """Define ``torch.ops.dynexport.<name>``: ``compute`` runs it on any device, ``shape`` gives an
    empty result while tracing."""
    _LIBRARY.define(schema)
    name = schema.partition("(")[0]
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dynexport::{name}", shape, lib=_LIBRARY)
    return getattr(torch.ops.dynexport, name)


def _take_rows(x: Tensor, rows: Tensor) -> Tensor:
    batch, tokens, channels = x.shape
    offsets = torch.arange(0, batch * tokens, tokens, device=x.device).view(batch, 1)
    flat = (rows.squeeze(-1) + offsets).view(-1)
    return x.reshape(batch * tokens, channels).index_select(0, flat).view(batch, -1, channels)


take_rows = _define(
    "take_rows(Tensor x, Tensor rows) -> Tensor",
    _take_rows,
    lambda x, rows: x.new_empty(x.shape[0], rows.shape[1], x.shape[2]),
)
"""Rows of each item of a batch, moved whole: x (B, N, C), rows int64 (B, K, 1) -> (B, K, C).

An operator of its own, because ``torch.gather`` says the same only through an index as large as
its result, which exporters turn into an element-wise gather.
"""

lay_out_rows = _define(
    "lay_out_rows(Tensor x, Tensor rows) -> Tensor",
    lambda x, rows: x.index_select(1, rows.flatten()).unflatten(1, rows.shape),
    lambda x, rows: x.new_empty(x.shape[0], *rows.shape, x.shape[2]),
)
"""Rows of each item of a batch, the same of all: x (B, N, C), rows int64 (H, K) -> (B, H, K, C).

An operator of its own, because PyTorch gathers by an index of one axis alone: the Reshape behind it
would be one node more, and one before which OpenVINO's converter fails.
"""

_in_dense_twin = _define(
    "in_dense_twin(Tensor here, Tensor there) -> Tensor",
    lambda here, there: here.clone(),
    lambda here, there: torch.empty_like(here),
)


def in_dense_twin(here: Tensor, there: Tensor) -> Tensor:
    """Marks what selection changes: ``here`` is the value, ``there`` its place in the dense twin.

    Returns ``here``. An exported graph remembers the pair, and its dense twin is the same graph
    with every ``there`` in place of its ``here`` (`dynexport.graph.twin`).
    """
    if torch.compiler.is_exporting():
        marked: Tensor = _in_dense_twin(here, there)
        return marked
    return here
