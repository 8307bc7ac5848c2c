"""PyTorch files to what they hold, with nothing in them executed.

A pickle is a program: it names functions and classes, and calls them. Here a name stands for a
function of PyTorch's that puts a tensor together, or for a builtin container; any other becomes an
inert stand-in that imports and calls nothing, and keeps what it is given. So tensors beside a
class of the trainer's, or inside one, can be had. (The way is that of the Python documentation,
"Restricting Globals" in the page on pickle.)
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dynexport.files.kinds import LEGACY
from dynexport.progress import unheard

CONTAINERS = {"dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
"""Builtin types that a pickle may make: they hold what they are given."""

NUMBERS = "?bhilqfdBHILQe"
"""Kinds of numpy numbers that arrays are read of."""


class Inert:
    """Stands for a value of a class or function that is not known here.

    made_of, state, items, entries  what it was called with, was restored with, and holds
    """

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        made = super().__new__(cls)
        made.made_of, made.state, made.items, made.entries = arguments, None, [], {}
        return made

    made_of: tuple[Any, ...]
    state: Any
    items: list[Any]
    entries: dict[Any, Any]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **_: Any) -> Inert:
        return Inert(self, *arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.items.append(value)

    add = append

    def extend(self, values: Any) -> None:
        self.items.extend(values)


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a pickle's own, which may change what it was given."""
    return lambda *arguments: function(*arguments)


class Array(Inert):
    """Stands for a numpy array; restored with its version, shape, type, order and bytes."""

    def tensor(self) -> Tensor | None:
        """As a tensor; None for one that holds no numbers."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, fortran, content = self.state
        code = kind.made_of[0] if isinstance(kind, _Type) and kind.made_of else None
        if not isinstance(code, str) or not isinstance(content, bytes) or code[:1] == "O":
            return None
        try:
            dtype = np.dtype(code)
            if dtype.char not in NUMBERS:
                return None
            if isinstance(kind.state, tuple) and kind.state[1] == ">":
                dtype = dtype.newbyteorder(">")
            flat = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
            array = flat.reshape(shape, order="F" if fortran else "C")
            return torch.from_numpy(np.array(array, order="C"))
        except (TypeError, ValueError):
            return None


class _Type(Inert):
    """A numpy type."""


def _array(content: Any, kind: Any, shape: Any, order: str) -> Array:
    """An array as protocol 5 spells it."""
    made = Array()
    made.state = (1, shape, kind, order == "F", bytes(content))
    return made


def _as_it_is(function: Callable[..., Any], _: type, arguments: tuple[Any, ...], __: Any) -> Any:
    """A tensor of a class of its own, as a plain one."""
    return function(*arguments)


def _bytes(text: str, _: str) -> bytes:
    """Bytes as protocols before 3 spell them."""
    return text.encode("latin1")


TORCH = (
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"),
    *("_rebuild_parameter_with_state", "_rebuild_sparse_tensor", "_rebuild_qtensor"),
    "_rebuild_meta_tensor_no_storage",
)
"""Of ``torch._utils``: what puts tensors together."""


def _stand_in(module: str, name: str) -> Any:
    """What a name in a pickle stands for."""
    if module in ("builtins", "__builtin__") and name in CONTAINERS:
        return CONTAINERS[name]
    if (module, name) == ("collections", "OrderedDict"):
        return collections.OrderedDict
    if (module, name) == ("_codecs", "encode"):
        return _calling(_bytes)
    if module == "torch._utils" and name in TORCH and hasattr(torch._utils, name):
        return _calling(getattr(torch._utils, name))
    if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
        return _calling(_as_it_is)
    if (module, name) == ("torch.serialization", "_get_layout"):
        return _calling(torch.serialization._get_layout)
    if module == "torch" and name in ("Size", "device"):
        return _calling(getattr(torch, name))
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if (module, name) == ("torch.storage", "_load_from_bytes"):
        return _calling(_read_bytes)
    if (module, name) == ("torch.storage", "UntypedStorage"):
        return type(name, (Inert,), {"dtype": torch.uint8})  # bytes, as PyTorch takes them
    if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
        return _calling(_array)
    kind: type[Inert] = Inert
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
        kind = Array
    elif (module, name) == ("numpy", "dtype"):
        kind = _Type
    return type(name, (kind,), {"__module__": module})  # of its own, so that nothing else changes


class InertUnpickler(pickle.Unpickler):
    """Reads a pickle without importing or calling what it names."""

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name)


class _Pickles:
    """What `torch.load` takes for the module ``pickle``."""

    Unpickler = InertUnpickler

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> Any:
        return InertUnpickler(file, **options).load()


def read_pickled(path: Path) -> Any:
    """What a file of ``torch.save`` holds, of either format, or of ``pickle.dump``.

    Stand-ins are for what is not known. Whatever a damaged file makes the unpickler raise is
    raised.
    """
    with path.open("rb") as file:
        head = file.read(len(LEGACY))
        if head[:1] == LEGACY[:1] and head != LEGACY:
            file.seek(0)
            return InertUnpickler(file, encoding="latin1").load()
    with unheard():
        return _load(path)


def _read_bytes(content: bytes) -> Any:
    """A tensor's numbers inside a pickle, which are a file of ``torch.save`` themselves."""
    return _load(io.BytesIO(content))


def _load(file: Path | BinaryIO) -> Any:
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_Pickles)


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_script(path: Path) -> Any:
    """What a TorchScript archive holds beside its code, of which nothing is read."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        known: dict[str, Any] = {}

        class Unpickler(InertUnpickler):
            def persistent_load(self, told: Any) -> Any:
                _, kind, key, _, count = told
                if key not in known:
                    dtype = getattr(torch, kind.__name__).dtype
                    content = bytearray(archive.read(f"{root}data/{key}"))
                    known[key] = torch.frombuffer(content, dtype=dtype, count=count)
                storage = known[key].untyped_storage()
                return torch.TypedStorage(wrap_storage=storage, dtype=known[key].dtype)  # type: ignore[no-untyped-call]

        return Unpickler(io.BytesIO(archive.read(pickled))).load()
