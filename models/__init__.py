"""The model families, each in its training form, and the registry that names them."""

from dynexport.models.protocol import Config, Family, Hints, Output, Shapes, SparseModel
from dynexport.models.registry import (
    create,
    families,
    find_family,
    find_variant,
    load_plugins,
    variant_name,
    variants,
)
from dynexport.models.sparsifiers import GumbelMask, KeepAll, Tokens, TopKGather, TopKMask

__all__ = [
    "Config",
    "Family",
    "GumbelMask",
    "Hints",
    "KeepAll",
    "Output",
    "Shapes",
    "SparseModel",
    "Tokens",
    "TopKGather",
    "TopKMask",
    "create",
    "families",
    "find_family",
    "find_variant",
    "load_plugins",
    "variant_name",
    "variants",
]
