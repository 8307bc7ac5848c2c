"""Other readings of what no tensor tells, the likelier first: tried where answers do not fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import comb
from typing import Any

from dynexport.models.activations import ACTIVATIONS
from dynexport.models.protocol import Family
from dynexport.models.untold import Alternative

LEAST_HEAD = 4
"""Channels of an attention head are at least so many."""

EPSILONS = (1e-5, 1e-6, 1e-12, 1e-8, 1e-3)
"""Of LayerNorms: PyTorch's, timm's, transformers'."""

MOST_PLACES = 24
"""Pruning locations that are tried."""


def usual_alternatives(family: Family, config: Any) -> Iterator[Alternative]:
    """Those of the family, and those that all families have."""
    yield from _other_heads(config)
    yield from family.alternatives(config)
    yield from _other_places(family, config)
    for name in ACTIVATIONS:
        if name != getattr(config, "activation", name):
            yield Alternative(f"`args` activation={name}", {"activation": name})
    for eps in EPSILONS:
        if eps != getattr(config, "norm_eps", eps):
            yield Alternative(f"`args` norm_eps={eps:g}", {"norm_eps": eps})


def _other_heads(config: Any) -> Iterator[Alternative]:
    """Divisors of the width, those nearest to what was read first."""
    heads = getattr(config, "num_heads", None)
    if not isinstance(heads, int):
        return
    most = max(1, config.embed_dim // LEAST_HEAD)
    others = [n for n in range(1, most + 1) if config.embed_dim % n == 0 and n != heads]
    for count in sorted(others, key=lambda n: max(n / heads, heads / n)):
        yield Alternative(f"`num_heads` {count}", {"num_heads": count})


def _other_places(family: Family, config: Any) -> Iterator[Alternative]:
    """Pruning locations: published ones, evenly spread ones, one block earlier or later, others.

    Others are those at equal distances, nearest first, and any where there are few.
    """
    stages, depth = len(config.prune_at), _depth(config)
    step = depth // (stages + 1)
    known = [variant.prune_at for variant in family.variants.values()]
    even = tuple(step * (stage + 1) for stage in range(stages))
    moved = [tuple(block + by for block in config.prune_at) for by in (-1, 1)]
    risen = [
        tuple(range(first, first + apart * stages, apart))
        for apart in range(depth, 0, -1)
        for first in range(depth)
    ]
    few = comb(depth, stages) <= MOST_PLACES
    risen += itertools.combinations(range(depth), stages) if few else ()
    near = sorted(risen, key=lambda places: _distance(places, config.prune_at))
    tried = []
    for places in (*known, even, *moved, *near):
        sound = len(places) == stages and places[0] >= 0 and places[-1] < depth
        if sound and places != config.prune_at and places not in tried:
            tried.append(places)
    for places in tried[:MOST_PLACES]:
        yield Alternative(f"`prune_at` {','.join(map(str, places))}", {"prune_at": places})


def _depth(config: Any) -> int:
    """Blocks that sparsifiers may stand before."""
    depths = getattr(config, "depths", None)
    return config.depth if depths is None else depths[2]


def _distance(places: tuple[int, ...], others: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(places, others, strict=False))
