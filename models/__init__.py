"""The model families, each in its training form, and the registry that names them.

What is listed here is what a family from outside the package is written with, beside the families'
own files and their building blocks in `dynexport.models.layers`.
"""

from dynexport.errors import ModelError, ScheduleError
from dynexport.models.alternatives import usual_alternatives
from dynexport.models.assumptions import assumed_usual, read_activation, read_norm_eps
from dynexport.models.operators import in_dense_twin, take_rows
from dynexport.models.protocol import (
    Config,
    Family,
    Hints,
    Output,
    Shapes,
    SparseModel,
    count_modules,
    read_heads,
    read_size,
    shape_of,
    square_side,
)
from dynexport.models.registry import (
    create,
    families,
    find_family,
    find_variant,
    load_plugins,
    variant_name,
    variants,
)
from dynexport.models.sparsifiers import (
    CLASS_TOKEN_SCORE,
    GumbelMask,
    KeepAll,
    Tokens,
    TopKGather,
    TopKMask,
    pin_class_token,
    replayed_rows,
)
from dynexport.models.untold import Alternative, Assumption
from dynexport.schedule import KeepSchedule, Selection

__all__ = [
    "CLASS_TOKEN_SCORE",
    "Alternative",
    "Assumption",
    "Config",
    "Family",
    "GumbelMask",
    "Hints",
    "KeepAll",
    "KeepSchedule",
    "ModelError",
    "Output",
    "ScheduleError",
    "Selection",
    "Shapes",
    "SparseModel",
    "Tokens",
    "TopKGather",
    "TopKMask",
    "assumed_usual",
    "count_modules",
    "create",
    "families",
    "find_family",
    "find_variant",
    "in_dense_twin",
    "load_plugins",
    "pin_class_token",
    "read_activation",
    "read_heads",
    "read_norm_eps",
    "read_size",
    "replayed_rows",
    "shape_of",
    "square_side",
    "take_rows",
    "usual_alternatives",
    "variant_name",
    "variants",
]
