"""The weights in what a checkpoint holds: wherever they stand, whatever stands beside them.

Training tools nest them (Lightning's ``state_dict``, DeepSpeed's ``module``, a pickled model's
``_modules``) and put words in front of their names (``model.``, ``module.``). No list of these is
kept: the tensors' full names are searched for those of a known family.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dynexport.models import Family
from dynexport.pytorch.pickles import Array, Inert

LEVELS = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what it holds; no part of a name."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Words that torch.compile and sharding put inside names."""

COUNTERS = ("total_ops", "total_params")
"""What FLOP counters leave in every module."""

BACKBONE, HEADS, LEAVES = "backbone", ("head", "head.fc"), ("weight", "bias")
"""How a toolbox keeps a classifier apart: ``backbone.`` and ``head.``, or ``head.fc.``."""

SECOND = ("ema", "teacher", "swa", "averaged", "avg", "shadow", "best", "optimizer", "momentum")
"""Words of places whose weights are taken only when they are asked for, or there are no others."""

Place = tuple[str, ...]
"""Keys that lead to something, from the outside in."""


@dataclass(frozen=True)
class Weights:
    """A set of tensors that makes a model of a known family.

    place  where it stands, keys and words in front of names joined by dots; "bare" at the top
    state  tensor by the family's name for it
    heads  words in front of a head's tensors that stand beside a backbone, as "decode_head"
    """

    place: str
    state: dict[str, Tensor]
    heads: tuple[str, ...] = ()


def flatten(content: Any) -> Iterator[tuple[Place, Tensor]]:
    """Every tensor in nested dicts, lists and stand-ins, in order.

    What stands in several places is told of in each, but entered once: files may nest without end.
    """
    seen: set[int] = set()
    stack: list[tuple[Place, Any]] = [((), content)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, Array):
            value = value.tensor()
        if isinstance(value, Tensor):
            yield place, value
            continue
        parts = [(_inside(place, key), part) for key, part in _parts(value)]
        if id(value) in seen:
            parts = [(there, part) for there, part in parts if isinstance(part, Tensor)]
        seen.add(id(value))
        stack.extend(reversed(parts))


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from value if _is_named(value) else enumerate(value)
    elif isinstance(value, Inert):
        yield from value.entries.items()
        yield from enumerate(value.items)
        if value.state is not None:
            yield "", value.state
        yield from (("", argument) for argument in value.made_of)


def _is_named(values: Sequence[Any]) -> bool:
    """Whether these are pairs of a name and a tensor."""
    return len(values) > 0 and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], (Tensor, Array))
        for pair in values
    )


def _inside(place: Place, key: Any) -> Place:
    word = str(key)
    return place if word in ("", *LEVELS) else (*place, word)


def find_weights(content: Any, known: Mapping[str, Family]) -> list[Weights]:
    """Every set of tensors in a checkpoint that makes a model of a known family.

    Those that are taken unasked come first, in the file's order.
    """
    named: dict[str, tuple[Place, Tensor]] = {}
    for place, tensor in flatten(content):
        name = ".".join(part for part in ".".join(place).split(".") if part not in WRAPPERS)
        if name.rpartition(".")[2] not in COUNTERS:
            named.setdefault(name, (place, tensor))
    shapes = {name: tuple(tensor.shape) for name, (_, tensor) in named.items()}
    found = []
    for front in _fronts(named):
        inside = {n.removeprefix(front): s for n, s in shapes.items() if n.startswith(front)}
        if any(family.matches(inside) for family in known.values()):
            state = {name: named[front + name][1] for name in inside}
            state |= {name: named[there][1] for name, there in _head_beside(front, named).items()}
            heads = _heads_beside(front, named)
            found.append((front, Weights(_told(front, named), state, heads)))
    labels = [weights.place for _, weights in found]
    settled = [
        one if labels.count(one.place) == 1 else replace(one, place=front.removesuffix("."))
        for front, one in found
    ]
    return sorted(settled, key=_is_second)


def _head_beside(front: str, named: Mapping[str, Any]) -> dict[str, str]:
    """Where the classifier stands apart from the backbone: the family's name -> the file's."""
    base = front.removesuffix(f"{BACKBONE}.")
    if base == front or f"{front}head.weight" in named:
        return {}
    heads = ((f"head.{leaf}", f"{base}{head}.{leaf}") for head in HEADS for leaf in LEAVES)
    return {name: there for name, there in heads if there in named}


def _heads_beside(front: str, named: Iterable[str]) -> tuple[str, ...]:
    """What stands beside a backbone and is called a head, which no classifier is."""
    base = front.removesuffix(f"{BACKBONE}.")
    words = (name.removeprefix(base).split(".")[0] for name in named if name.startswith(base))
    heads = dict.fromkeys(word for word in words if word.endswith("_head"))
    return tuple(heads) if base != front else ()


def _fronts(names: Mapping[str, Any]) -> list[str]:
    """Whatever may stand in front of a family's names: each word of a name, and none."""
    fronts: dict[str, None] = {"": None}
    for name in names:
        words = name.split(".")[:-1]
        fronts |= {".".join(words[:count]) + ".": None for count in range(1, len(words) + 1)}
    return list(fronts)


def _told(front: str, named: Mapping[str, tuple[Place, Tensor]]) -> str:
    """The keys that lead to what is named so; words that all names have are no keys."""
    place = next(place for name, (place, _) in named.items() if name.startswith(front))
    keys: list[str] = []
    for key in place[:-1]:
        if not front.startswith(".".join([*keys, key]) + "."):
            break
        keys.append(key)
    return ".".join(keys) or "bare"


def _is_second(weights: Weights) -> bool:
    words = weights.place.lower().replace(".", "_").split("_")
    return any(word in words for word in SECOND)
