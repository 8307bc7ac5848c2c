"""What a family of models is to the rest of the package, and how one reads itself off tensors.

A family is a file that ends in one `Family` value. Everything else (checkpoints, rewriting,
export, the command line) works through it and knows no family by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from dynexport.errors import ModelError
from dynexport.images import ImageSize
from dynexport.models.sparsifiers import Tokens
from dynexport.models.untold import Alternative, Assumption
from dynexport.schedule import KeepSchedule, Schedule, Selection
from dynexport.tasks import LOGITS, Task
from dynexport.tasks.classify import CLASSIFY

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name to shape: a checkpoint as detection sees it."""

Hints = Mapping[str, Any]
"""What shapes cannot say: the checkpoint's args, whatever they hold, and what the user said, or
they tell, of ``num_heads``, ``prune_at``, ``img_size`` and ``task``; ``trained_size`` is the
`ImageSize` that they tell alone."""


class Config(Protocol):
    """What every family's configuration (a frozen dataclass) has."""

    @property
    def img_size(self) -> ImageSize: ...
    @property
    def in_chans(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def prune_at(self) -> tuple[int, ...]: ...


class Output(NamedTuple):
    """What a model's forward returns.

    outputs   what an exported graph returns, by name: ``logits`` (B, classes), or ``feat_0 ...``
              (B, C, H, W)
    tokens    the history of every decision; see `Tokens`
    features  (B, N, C) normalised patch features, in training mode only
    """

    outputs: dict[str, Tensor]
    tokens: Tokens
    features: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        return self.outputs[LOGITS]


class SparseModel(nn.Module):
    """Base of every training form, called with images (B, C, H, W) and returning `Output`.

    config       its configuration
    sparsifiers  path of the ModuleList of sparsifiers, one a stage, which converting swaps
    selection    what each stage ranks; of the class, or of each model where configurations differ

    A sparsifier in training form has ``top_k(keep_count, ranked)``, which returns the oracle's:
    a module that keeps exactly ``keep_count`` of ``ranked`` tokens as a mask, or what is set as
    its ``replay``, positions int64 (B, K); it adds to the scores and to the positions kept of
    `Tokens`. Scores are on a logarithmic scale, where 1e-4 is rounding. The oracle's sparsifier
    has an ``inference_form()``, which may take a ``replay`` as well: then verification replays a
    candidate's choice in PyTorch, otherwise PyTorch's in the candidate. For the dense twin all are
    swapped for `KeepAll`.
    """

    sparsifiers: ClassVar[str]
    selection: Selection
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def keep_counts(self, keep: KeepSchedule) -> tuple[int, ...]:
        """Tokens each stage keeps: shares of the patch grid, as the public code counts them."""
        return keep.counts(self.config.num_tokens)


@dataclass(frozen=True)
class Family:
    """One family of sparse models.

    name            as people say it
    model           builds the training form from a configuration; see `SparseModel`
    config          the configuration class, rebuilt from metadata by keyword
    variants        published configurations by name
    schedule        from one base ratio to the ratio of each stage
    matches         whether a checkpoint's tensors belong to this family
    read_config     the configuration they describe; ModelError where it cannot be settled
    read_values     further hints, from what is in the tensors; by default none
    assumptions     of a configuration that was read, with the hints, what they did not settle
    alternatives    readings of a configuration beside those that all families have, the likelier
                    first; see `dynexport.models.alternatives`
    fit             a checkpoint's tensors, those that depend on the image size or the task fitted
                    to a configuration; by default none does
    tasks           what its models can be exported for
    published_top1  ImageNet top-1 at ratio 0.7, per cent, by variant
    """

    name: str
    model: type[SparseModel]
    config: Callable[..., Any]
    variants: Mapping[str, Any]
    schedule: Schedule
    matches: Callable[[Shapes], bool]
    read_config: Callable[[Shapes, Hints], Any]
    read_values: Callable[[Mapping[str, Tensor]], Hints] = lambda state: {}
    assumptions: Callable[[Any, Hints], Iterable[Assumption]] = lambda config, hints: ()
    alternatives: Callable[[Any], Iterable[Alternative]] = lambda config: ()
    fit: Callable[[Mapping[str, Tensor], Any], Mapping[str, Tensor]] = lambda state, _: state
    tasks: tuple[Task, ...] = (CLASSIFY,)
    published_top1: Mapping[str, float] = field(default_factory=dict)


def require_sizes(config: Any) -> None:
    """ModelError unless a vision transformer's sizes make sense together."""
    sizes = ("embed_dim", "num_heads", "depth", "patch_size", "num_classes", "in_chans")
    for name in sizes:
        if getattr(config, name) < 1:
            raise ModelError(f"{name} is {getattr(config, name)}: it must be at least 1")
    if config.embed_dim % config.num_heads:
        raise ModelError(
            f"{config.embed_dim} channels do not divide into {config.num_heads} heads: "
            "give a number of heads that divides the width"
        )
    if any(side % config.patch_size for side in config.img_size):
        raise ModelError(
            f"image size {config.img_size} is no multiple of the patch size {config.patch_size}"
        )
    require_blocks(config.prune_at, config.depth)


def require_blocks(prune_at: Sequence[int], depth: int) -> None:
    """ModelError unless these are increasing numbers of ``depth`` blocks."""
    ordered = all(a < b for a, b in itertools.pairwise(prune_at))
    if not ordered or not all(0 <= block < depth for block in prune_at):
        raise ModelError(
            f"pruning locations {list(prune_at)} are not valid for {depth} blocks: "
            f"give increasing block numbers from 0 to {depth - 1}"
        )


def shape_of(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there with this rank."""
    if name not in shapes:
        raise ModelError(f"the checkpoint has no tensor {name!r}, which its family needs")
    if len(shapes[name]) != rank:
        raise ModelError(
            f"tensor {name!r} has shape {list(shapes[name])}: expected {rank} dimensions"
        )
    return shapes[name]


def count_modules(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules stand under ``prefix``, by the highest number: prefix.0 ..."""
    parts = {
        name[len(prefix) + 1 :].split(".")[0] for name in shapes if name.startswith(prefix + ".")
    }
    numbers = {int(part) for part in parts if part.isdigit()}
    count = 1 + max(numbers, default=-1)
    if count > 2 * len(numbers):
        raise ModelError(
            f"modules under {prefix!r} are numbered up to {count - 1}, but only {len(numbers)} "
            "are there: the checkpoint is incomplete"
        )
    return count


def read_size(tokens: int, patch: int, hints: Hints, name: str = "pos_embed") -> ImageSize:
    """The size of the images that make ``tokens`` patches: one that was told, or a square."""
    for told in (hints.get("trained_size"), hints.get("img_size")):
        if isinstance(told, ImageSize) and math.prod(told.patches(patch)) == tokens:
            return told
    side = square_side(tokens, name, patch) * patch
    return ImageSize(side, side)


def square_side(tokens: int, name: str, patch: int = 1) -> int:
    """The side of a square grid of ``tokens`` patches."""
    if tokens < 1:
        raise ModelError(f"tensor {name!r} stands for {tokens} patches: expected at least one")
    side = math.isqrt(tokens)
    if side * side != tokens:
        rows = next(count for count in range(side, 0, -1) if tokens % count == 0)
        likely = ImageSize(rows * patch, tokens // rows * patch)
        raise ModelError(
            f"tensor {name!r} stands for {tokens} patches, which make no square grid: say the size "
            f"of its images, as in `img_size` {likely}"
        )
    return side


OTHER_HEADS = (1152, 1280, 1408)
"""Widths of SO400M, ViT-H and ViT-g, whose 16 heads are not 64 wide."""


def read_heads(embed_dim: int, hints: Hints) -> int:
    """Attention heads: the hint, or the family's 64 channels a head."""
    if isinstance(hints.get("num_heads"), int):
        return int(hints["num_heads"])
    if embed_dim % 64 == 0 and embed_dim not in OTHER_HEADS:
        return embed_dim // 64
    divisors = [str(n) for n in range(1, embed_dim + 1) if embed_dim % n == 0 and n <= 64]
    raise ModelError(
        f"the number of attention heads cannot be read from tensors {embed_dim} wide: "
        f"say it with `num_heads`, one of {', '.join(divisors)}"
    )


class UndecidedError(ModelError):
    """Tensors leave it open and nobody said it."""


def read_prune_at(
    shapes: Shapes, predictors: str, depth: int, known: Iterable[tuple[int, ...]], hints: Hints
) -> tuple[int, ...]:
    """Pruning locations: the hint, or the only one of ``known`` with as many stages.

    ``known`` are those of the published variants with this depth.
    """
    stages = count_modules(shapes, predictors)
    if stages == 0:
        raise ModelError(
            f"no predictors ({predictors}.0 ...) among the tensors: this is a dense model, "
            "and there is nothing to prune until it is trained with sparsifiers"
        )
    hinted: Any = hints.get("prune_at")
    if hinted:
        hinted = [hinted] if isinstance(hinted, int) else list(hinted)
        if len(hinted) != stages:
            raise ModelError(
                f"{len(hinted)} pruning locations {hinted} were given for {stages} predictors: "
                f"give {stages}, as in `prune_at` {_example(stages, depth)}"
            )
        return tuple(int(block) for block in hinted)
    fitting = {blocks for blocks in known if len(blocks) == stages}
    if len(fitting) == 1:
        return fitting.pop()
    raise UndecidedError(
        f"{stages} predictors for {depth} blocks, and nothing in the checkpoint says before "
        f"which blocks they stand: say it, as in `prune_at` {_example(stages, depth)}"
    )


def read_prune_at_and_heads(
    shapes: Shapes,
    predictors: str,
    depth: int,
    known: Iterable[tuple[int, ...]],
    embed_dim: int,
    hints: Hints,
) -> tuple[tuple[int, ...], int]:
    """`read_prune_at` and `read_heads`; where both are open, one ModelError asks for both."""
    try:
        # First, because a dense model has nothing to prune, however many heads it has.
        prune_at = read_prune_at(shapes, predictors, depth, known, hints)
    except UndecidedError as error:
        try:
            read_heads(embed_dim, hints)
        except ModelError as other:
            raise UndecidedError(f"{error}; and {other}") from None
        raise
    return prune_at, read_heads(embed_dim, hints)


def _example(stages: int, depth: int) -> str:
    step = max(1, depth // (stages + 1))
    return ",".join(str(step * (stage + 1)) for stage in range(stages))
