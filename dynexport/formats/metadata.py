"""What an exported ONNX file says of itself, in its metadata: enough to run it with no PyTorch.

Each field of `Metadata` is one entry ``dynexport.<field>`` whose value is JSON, so any tool that
shows ONNX metadata shows it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynexport.errors import InputError, ModelFileError, ScheduleError
from dynexport.images import Preprocessing
from dynexport.schedule import Selection

PREFIX = "dynexport."

DAMAGED = (
    *(ValueError, TypeError, KeyError, AttributeError, RecursionError),
    *(InputError, ScheduleError),
)
"""What reading damaged metadata may raise; JSON may be nested without end."""


@dataclass(frozen=True)
class Batch:
    """The batch sizes a graph takes: one, or a range with the size to optimise for."""

    smallest: int
    optimal: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.optimal <= self.largest:
            raise InputError(
                f"batch {self} is not valid: sizes are at least 1 and rise, as in 8 or 1:8:64"
            )

    @classmethod
    def parse(cls, text: str) -> Batch:
        """``"8"`` (static) or ``"1:8:64"`` (smallest, optimal, largest)."""
        try:
            sizes = [int(part) for part in text.split(":")]
        except ValueError:
            sizes = []
        if len(sizes) not in (1, 3):
            raise InputError(f"batch {text!r} is not valid: write one size, 8, or a range, 1:8:64")
        return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])

    @property
    def dynamic(self) -> bool:
        return self.smallest != self.largest

    def __str__(self) -> str:
        if not self.dynamic:
            return str(self.optimal)
        return f"{self.smallest}:{self.optimal}:{self.largest}"


ENTRIES = (
    *("family", "variant", "config", "ratios", "keep_counts", "num_tokens", "grid"),
    *("selection", "batch"),
    *("outputs", "macs_dense", "macs_sparse", "nodes_dense", "nodes", "preprocessing", "selected"),
    *("dense_twin", "checkpoint_sha256", "weights", "precision", "versions", "target", "align"),
    "assumed",
)
"""The entries in the order they stand in a file: the same model gives the same bytes."""


def as_json(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are read back from JSON: tuples are lists."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return fields


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What is known of an export before there is a graph.

    family, variant    its name; variant is the family's where it is no published one
    config             the family's configuration, by field, see `as_json`
    ratios             keep ratio per stage; None for a dense twin
    keep_counts        tokens kept per stage; empty for a dense twin
    num_tokens         patches in the grid
    grid               its rows and columns; None where tokens form none
    selection          what each stage ranks
    batch              batch sizes, as `Batch` writes them
    outputs            name -> shape for one image: ``logits`` (classes,), or ``feat_0`` (C, H, W)
    preprocessing      from a picture to the input
    checkpoint_sha256  of the file it was made from; weights: which of its state dicts
    precision          how it was typed, see `dynexport.precision.PrecisionReport`
    target             what it was written for, see `dynexport.graph.fuse`
    versions           of what made it
    align              what the rows that blocks compute were rounded up to a multiple of
    assumed            what of the model nothing told, a sentence each, with what says otherwise

    A field that has a default may be missing: files written before there was a choice do not say.
    """

    family: str
    variant: str
    config: dict[str, Any]
    ratios: tuple[float, ...] | None
    keep_counts: tuple[int, ...]
    num_tokens: int
    selection: Selection
    batch: str
    outputs: dict[str, tuple[int, ...]]
    preprocessing: Preprocessing
    checkpoint_sha256: str
    weights: str
    precision: dict[str, Any]
    versions: dict[str, str]
    target: str = "tensorrt"
    align: int = 1
    grid: tuple[int, int] | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metadata(ExportSpec):
    """The facts of an exported model: what it was to be, and what its graph turned out to hold.

    macs_dense, macs_sparse  multiply-accumulates for one image, of the dense twin and of this
    nodes_dense, nodes       graph size in standard operators, of the dense twin and of this
    selected           per stage the value of the graph that lists the rows it selects, by name
    dense_twin         value of the graph -> value in its place in the dense twin, by name
    """

    macs_dense: int
    macs_sparse: int
    nodes_dense: int
    nodes: int
    selected: tuple[str, ...]
    dense_twin: dict[str, str]

    def to_properties(self) -> dict[str, str]:
        """As ONNX metadata entries."""
        values = dataclasses.asdict(self)
        return {PREFIX + key: json.dumps(values[key]) for key in ENTRIES}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], name: str) -> Metadata:
        """Read back from ONNX metadata entries; ModelFileError if dynexport wrote none."""
        fields = dataclasses.fields(cls)
        names = [field.name for field in fields if PREFIX + field.name in properties]
        required = [field.name for field in fields if field.default is dataclasses.MISSING]
        missing = [name for name in required if name not in names]
        if missing:
            raise ModelFileError(
                f"{name} carries no dynexport metadata ({missing[0]} is missing): "
                "give an ONNX file that `dynexport convert` wrote"
            )
        try:
            values = {key: json.loads(properties[PREFIX + key]) for key in names}
            for key in ("ratios", "keep_counts", "selected"):
                values[key] = None if values[key] is None else tuple(values[key])
            values["grid"] = _read_grid(values)
            values["assumed"] = tuple(values.get("assumed", ()))
            steps = values["preprocessing"]
            for key in ("mean", "std"):
                steps[key] = tuple(steps[key])
            values["preprocessing"] = Preprocessing(**steps)
            values["selection"] = Selection(**values["selection"])
            values["outputs"] = {name: tuple(size) for name, size in values["outputs"].items()}
            facts = cls(**values)
            if not facts._sound():
                raise TypeError("a field")
            return facts
        except DAMAGED:
            raise ModelFileError(
                f"the dynexport metadata of {name} is damaged: convert the checkpoint again"
            ) from None

    def _sound(self) -> bool:
        """Whether every field read from a file is of its type."""
        Batch.parse(self.batch)
        texts = (self.family, self.variant, self.checkpoint_sha256, self.weights, self.target)
        names = (*self.outputs, *self.selected, *self.dense_twin, *self.dense_twin.values())
        every = (*texts, *names, *self.assumed)
        shapes = [size for shape in self.outputs.values() for size in shape]
        counts = (*self.keep_counts, *shapes, self.num_tokens, self.macs_dense, self.macs_sparse)
        sizes = (self.config.get("in_chans"), *self.preprocessing.img_size, self.align)
        steps = self.preprocessing
        scales = (*steps.mean, *steps.std, *(self.ratios or ()))
        return (
            all(isinstance(text, str) for text in every)
            and len(self.outputs) > 0
            and all(isinstance(size, int) and size > 0 for size in (*counts, *sizes))
            and all(isinstance(number, (int, float)) for number in scales)
            and len(steps.mean) == len(steps.std) == self.config["in_chans"]
            and isinstance(steps.warp, bool)
            and len(self.keep_counts) == len(self.ratios or ()) == len(self.selected)
            and isinstance(self.versions, dict)
            and isinstance(self.precision.get("name"), str)
        )

    @property
    def ideal_speedup(self) -> float:
        """Dense twin's multiply-accumulates over this model's: what sparsity could give."""
        return self.macs_dense / (self.macs_sparse if self.keep_counts else self.macs_dense)


def _read_grid(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns; files from before images could be oblong tell only how many tokens."""
    if "grid" in values:
        grid = values["grid"]
        return None if grid is None else (int(grid[0]), int(grid[1]))
    side = math.isqrt(values["num_tokens"])
    return (side, side) if side * side == values["num_tokens"] else None
