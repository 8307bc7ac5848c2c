"""What no tensor tells: it is read where it was recorded or said, else assumed, and that is named.

The epsilon is that of the backbone's LayerNorms, the activation that of its MLPs. Predictors have
their own, the public code's, in every model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dynexport.errors import ModelError
from dynexport.models.activations import DESCRIBED
from dynexport.models.protocol import Hints
from dynexport.models.untold import Assumption

ALSO_CALLED = {
    "tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelutanh": "gelu_tanh",
    "quick": "quick_gelu",
    "quickgelu": "quick_gelu",
    "exact": "gelu",
    "gelu_python": "gelu",
}
"""Other names of theirs, in lower case: transformers', timm's, and short ones."""

ACTIVATION = ("activation", "hidden_act", "act_layer")
NORM_EPS = ("norm_eps", "layer_norm_eps")
"""What training code and config.json call them, ours first."""


def read_norm_eps(hints: Hints, usual: float, names: Iterable[str] = NORM_EPS) -> float:
    """The epsilon that was recorded or said, else the ``usual`` one of a family."""
    told = _told(hints, names)
    if told is None:
        return usual
    try:
        return float(told)
    except (TypeError, ValueError):
        raise ModelError(
            f"norm epsilon {told!r} is no number: say it, as in `args` norm_eps=1e-6"
        ) from None


def read_activation(hints: Hints) -> str:
    """The activation that was recorded or said, by our name for it; else the exact GELU."""
    told = _told(hints, ACTIVATION)
    if told is None:
        return "gelu"
    name = str(told).rpartition(".")[2].lower()
    return ALSO_CALLED.get(name, name)


def assumed_usual(
    config: Any, hints: Hints, eps_names: Iterable[str] = NORM_EPS
) -> Iterator[Assumption]:
    """What nothing told, of all that families have in common."""
    yield from _assumed_heads(config, hints)
    yield from _assumed_blocks(config, hints)
    yield from _assumed_size(config, hints)
    yield from _assumed_numerics(config, hints, eps_names)


def _assumed_heads(config: Any, hints: Hints) -> Iterator[Assumption]:
    """Heads, where a family has one number of them that no tensor tells."""
    heads = getattr(config, "num_heads", None)
    if isinstance(heads, int) and not isinstance(hints.get("num_heads"), int):
        each = config.embed_dim // heads
        yield Assumption(f"attention in {heads} x {each} channels", "num_heads")


def _assumed_blocks(config: Any, hints: Hints) -> Iterator[Assumption]:
    """Pruning locations: those of the published variants."""
    if not hints.get("prune_at"):
        places = ", ".join(map(str, config.prune_at))
        yield Assumption(f"pruned before blocks {places}", "prune_at")


def _assumed_size(config: Any, hints: Hints) -> Iterator[Assumption]:
    """The image size: that of a square grid, or the usual one."""
    if not (hints.get("img_size") or hints.get("trained_size")):
        yield Assumption(f"images of {config.img_size} pixels", "img_size")


def _assumed_numerics(config: Any, hints: Hints, names: Iterable[str]) -> Iterator[Assumption]:
    """Epsilon and activation, in one line."""
    said, otherwise = [], []
    if _told(hints, names) is None:
        said.append(f"LayerNorm epsilon {config.norm_eps:g}")
        otherwise.append(f"norm_eps={'1e-6' if config.norm_eps == 1e-5 else '1e-5'}")
    if _told(hints, ACTIVATION) is None:
        said.append(DESCRIBED[config.activation])
        otherwise.append(f"activation={'gelu' if config.activation != 'gelu' else 'gelu_tanh'}")
    if said:
        yield Assumption(", ".join(said), "args", ", `args` ".join(otherwise))


def _told(hints: Hints, names: Iterable[str]) -> Any:
    return next((hints[name] for name in names if hints.get(name) is not None), None)
