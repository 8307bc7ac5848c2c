"""Operators of our own: what PyTorch can only say element by element, said by the row.

They are opaque to an exporter, which so sees one operator and translates it to one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("dynexport", "DEF")


def row_operator(
    schema: str, compute: Callable[..., torch.Tensor], shape: Callable[..., torch.Tensor]
) -> Any:
    """Define ``torch.ops.dynexport.<name>``: ``compute`` runs it on any device, ``shape`` gives an
    empty result while tracing."""
    _LIBRARY.define(schema)
    name = schema.partition("(")[0]
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dynexport::{name}", shape, lib=_LIBRARY)
    return getattr(torch.ops.dynexport, name)
