"""Names that a shell completes.

Some are told again here, so that a press of TAB imports nothing slow; runtimes, precisions and
tasks declare theirs in files that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dynexport.precision import precisions
from dynexport.runtimes import runtimes
from dynexport.runtimes.tensorrt import editions
from dynexport.tasks import DEFAULT, tasks

MODELS = (
    *("deit-256", "deit-s", "deit-b", "lvvit-s", "lvvit-m"),
    *("swin-t", "swin-s", "swin-b", "convnext-t", "convnext-s", "convnext-b"),
)
PRECISIONS = tuple(precisions())
PRECISIONS_DESCRIBED = ", ".join(f"{kind.name} ({kind.help})" for kind in precisions().values())
IO_PRECISIONS = ("fp32", "half")
METHODS = ("min-max", "percentile", "entropy", "mse")
TASKS = tuple(tasks())
TASKS_DESCRIBED = ", ".join(
    f"{task.name} ({task.help}{'; the default' if task.name == DEFAULT else ''})"
    for task in tasks().values()
)
WEIGHTS = ("model", "model_ema")
TARGETS = ("any", "tensorrt")
FALLBACKS = ("auto",)
EDITIONS = (*editions.EDITIONS, "auto")
BACKENDS = tuple(runtimes())


def one_of(names: Iterable[str], default: str | None = None) -> str:
    """Names in a sentence, "a (default), b or c"."""
    *others, last = (f"{name} (default)" if name == default else name for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def complete(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What one of these names may go on with."""

    def find(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return find


def complete_list(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What a list of these names, with commas between, may go on with."""

    def find(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [
            f"{before}{comma}{name}"
            for name in names
            if name.startswith(last) and name not in given
        ]

    return find
