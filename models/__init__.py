"""The model families, each in its training form, and the registry that names them."""

from dynexport.models.protocol import Config, Family, Output, Shapes, SparseModel
from dynexport.models.registry import (
    FAMILIES,
    create,
    find_family,
    find_variant,
    variant_name,
    variants,
)
from dynexport.models.sparsifiers import GumbelMask, KeepAll, Tokens, TopKGather, TopKMask

__all__ = [
    "FAMILIES",
    "Config",
    "Family",
    "GumbelMask",
    "KeepAll",
    "Output",
    "Shapes",
    "SparseModel",
    "Tokens",
    "TopKGather",
    "TopKMask",
    "create",
    "find_family",
    "find_variant",
    "variant_name",
    "variants",
]
