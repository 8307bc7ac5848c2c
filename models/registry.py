"""Families and variants by name. Data only: a new family is one import and one entry."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynexport.errors import ModelError, unknown_choice
from dynexport.models import convnext, deit, lvvit, swin
from dynexport.models.protocol import Config, Family, SparseModel

BUILT_IN = (deit.FAMILY, lvvit.FAMILY, swin.FAMILY, convnext.FAMILY)

FAMILIES: dict[str, Family] = {family.name: family for family in BUILT_IN}


def find_family(name: str) -> Family:
    """A family by name; ModelError lists the names."""
    if name not in FAMILIES:
        raise ModelError(unknown_choice("family", name, FAMILIES))
    return FAMILIES[name]


def variants() -> dict[str, tuple[Family, Any]]:
    """Every published variant: name -> (family, configuration)."""
    return {
        name: (family, config)
        for family in FAMILIES.values()
        for name, config in family.variants.items()
    }


def find_variant(name: str) -> tuple[Family, Any]:
    """Family and configuration of a published variant; ModelError lists the names."""
    known = variants()
    if name not in known:
        raise ModelError(unknown_choice("model", name, known))
    return known[name]


def create(name: str, **overrides: Any) -> SparseModel:
    """The training form of a published variant, freshly initialised.

    ``overrides`` replace fields of its configuration: ``create("deit-s", num_classes=10)``.
    """
    family, config = find_variant(name)
    fields = [f.name for f in dataclasses.fields(config)]
    for key in overrides:
        if key not in fields:
            raise ModelError(unknown_choice(f"setting of {name}", key, fields))
    return family.model(dataclasses.replace(config, **overrides))


def variant_name(family: Family, config: Config) -> str:
    """The published name of a configuration, whatever its classes, image size or schedule of
    pruning; the family's name where it is nobody's."""
    free = {"num_classes", "img_size", "prune_at"}
    for name, published in family.variants.items():
        fields = [f.name for f in dataclasses.fields(published) if f.name not in free]
        if all(getattr(config, f) == getattr(published, f) for f in fields):
            return name
    return family.name
