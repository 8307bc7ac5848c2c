"""dynexport: deploy dynamically sparse vision models.

    import dynexport
    result = dynexport.convert("ckpt.pth", ratio=0.7)
    print(dynexport.bench_model(result.onnx).speedup)

No public name is that of a submodule, which an import would put in its place. Importing the
package imports no runtime; each function imports what it needs when called, and where that is not
installed, it says so then.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from dynexport.errors import DynexportError, MissingExtraError

if TYPE_CHECKING:
    from dynexport.bench import Plan, bench_model
    from dynexport.check import check_model
    from dynexport.compare.tolerances import Limits
    from dynexport.conversion import Recipe, convert
    from dynexport.engine import build_engine
    from dynexport.inspection import inspect_file
    from dynexport.models import create
    from dynexport.optimize import optimize_model
    from dynexport.precision import Precision
    from dynexport.pytorch.rewrite import rewrite
    from dynexport.report import write_report
    from dynexport.schedule import KeepSchedule
    from dynexport.sweep import Rig, search_schedule, sweep_checkpoint
    from dynexport.verify import verify_model
    from dynexport.visualize import visualize_images

__version__ = "0.1.0"

__all__ = [
    "DynexportError",
    "KeepSchedule",
    "Limits",
    "Plan",
    "Precision",
    "Recipe",
    "Rig",
    "bench_model",
    "build_engine",
    "check_model",
    "convert",
    "create",
    "inspect_file",
    "optimize_model",
    "rewrite",
    "search_schedule",
    "sweep_checkpoint",
    "verify_model",
    "visualize_images",
    "write_report",
]

_HOME = {
    "KeepSchedule": "dynexport.schedule",
    "Limits": "dynexport.compare.tolerances",
    "Plan": "dynexport.bench",
    "Precision": "dynexport.precision",
    "Recipe": "dynexport.conversion",
    "Rig": "dynexport.sweep",
    "bench_model": "dynexport.bench",
    "build_engine": "dynexport.engine",
    "check_model": "dynexport.check",
    "convert": "dynexport.conversion",
    "create": "dynexport.models",
    "inspect_file": "dynexport.inspection",
    "optimize_model": "dynexport.optimize",
    "rewrite": "dynexport.pytorch.rewrite",
    "search_schedule": "dynexport.sweep",
    "sweep_checkpoint": "dynexport.sweep",
    "verify_model": "dynexport.verify",
    "visualize_images": "dynexport.visualize",
    "write_report": "dynexport.report",
}


def __getattr__(name: str) -> Any:
    """Public names are found on first use (PEP 562), so that importing costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'dynexport' has no attribute {name!r}")
    try:
        home = importlib.import_module(_HOME[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _without_torch(name)
    return getattr(home, name)


def _without_torch(name: str) -> Callable[..., NoReturn]:
    """What stands for a function whose module imports PyTorch, where there is none.

    So ``from dynexport import *`` and ``help(dynexport)`` do their work.
    """

    def lacking(*_: object, **__: object) -> NoReturn:
        raise MissingExtraError("torch", "convert")

    lacking.__name__ = lacking.__qualname__ = name
    lacking.__doc__ = f"{MissingExtraError('torch', 'convert')}."
    return lacking


def __dir__() -> list[str]:
    return sorted(__all__)
