"""Families and variants by name: the built-in ones, installed ones, and plugins.

A family can live outside the package: in a file the user names, or in an installed package that
points to it under the entry point group ``dynexport.families``. Either way it is a `Family`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynexport.errors import InputError, ModelError, unknown_choice
from dynexport.files import existing_file
from dynexport.models import convnext, deit, lvvit, swin
from dynexport.models.protocol import Config, Family, SparseModel

BUILT_IN = (deit.FAMILY, lvvit.FAMILY, swin.FAMILY, convnext.FAMILY)

ENTRY_POINTS = "dynexport.families"
"""Group of entry points, each of which names a `Family`."""

_FAMILIES: dict[str, Family] = {family.name: family for family in BUILT_IN}


def families() -> dict[str, Family]:
    """Every family known, by name: built in, installed, and loaded from plugins."""
    _load_installed()
    return dict(_FAMILIES)


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run files that each define a ``FAMILY``, and register it.

    Their code runs, which is why only a user can name them. InputError where one is no plugin.
    """
    _load_installed()  # first, so that what the user names comes last
    for path in paths:
        _load_plugin(existing_file(path, "a plugin, a Python file that defines FAMILY").resolve())


def _load_plugin(path: Path) -> None:
    name = f"dynexport_plugin_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no plugin: expected a Python file (.py) that defines FAMILY")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        _register(getattr(module, "FAMILY", None), str(path))
    except InputError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # whatever a file of the user's raises
        del sys.modules[name]
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(
            f"plugin {path}{where}: {type(error).__name__}: {error}; mend the file"
        ) from error


@functools.cache
def _load_installed() -> None:
    found = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        source = f"entry point {entry.name} ({entry.value})"
        try:
            found.append((entry.load(), source))
        except Exception as error:  # whatever an installed package raises
            raise InputError(
                f"{source} could not be loaded: {error}; mend or uninstall its package"
            ) from error
    for family, source in found:
        _register(family, source)


def _register(family: Any, source: str) -> None:
    if not isinstance(family, Family):
        raise InputError(
            f"{source} defines no FAMILY: expected a dynexport.models.Family, found "
            f"{type(family).__name__}"
        )
    taken = {*_FAMILIES, *(name for known in _FAMILIES.values() for name in known.variants)}
    clash = taken & {family.name, *family.variants}
    if clash:
        raise InputError(
            f"{source} defines {sorted(clash)[0]!r}, which is there already: choose another name"
        )
    _FAMILIES[family.name] = family


def find_family(name: str) -> Family:
    """A family by name; ModelError lists the names."""
    known = families()
    if name not in known:
        found = unknown_choice("family", name, known)
        raise ModelError(f"{found}; where it is one of your own, give its file with `plugins`")
    return known[name]


def variants() -> dict[str, tuple[Family, Any]]:
    """Every published variant: name -> (family, configuration)."""
    return {
        name: (family, config)
        for family in families().values()
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
    """The published name of a configuration; the family's name where it is nobody's.

    Whatever its classes, image size, task or schedule of pruning, and what is computed between its
    tensors.
    """
    free = {"num_classes", "img_size", "pos_grid", "prune_at", "task", "norm_eps", "activation"}
    for name, published in family.variants.items():
        fields = [f.name for f in dataclasses.fields(published) if f.name not in free]
        if all(getattr(config, f) == getattr(published, f) for f in fields):
            return name
    return family.name
