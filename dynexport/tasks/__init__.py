"""What a model is exported for: classes, or maps of features. One file a task.

A file of this folder says at its top, in ``TASKS``, what it is for; help, completion and messages
are read off that, and so is what is asked of a file by its outputs. It imports nothing slow. One
that stands in ``dynexport/tasks/`` elsewhere on the search path counts as one of this folder
(`dynexport.files.folders_of`). The outputs themselves come from the `forward` of a family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from dynexport.errors import InputError, unknown_choice
from dynexport.files import declared_in, folders_of

__path__ = folders_of(__name__, __path__)

DEFAULT = "classify"
"""What a model is exported for where nothing is asked for; it goes into no file's name."""

LOGITS = "logits"
"""The output (B, classes) of every task that tells images apart by class."""


@dataclass(frozen=True)
class Task:
    """What a model is exported for.

    name    as ``--task`` takes it; in the default name of a file
    help    what it is, in the help of `convert`
    output  an output that no other task has, by which a file is known to be for it
    gives   what its outputs are, in a message: "maps of features"
    """

    name: str
    help: str
    output: str
    gives: str

    @property
    def classes(self) -> bool:
        """Whether images get a class: that is judged, counted, drawn, and varied by a sweep."""
        return self.output == LOGITS


@cache
def tasks() -> Mapping[str, Task]:
    """Every task that is declared, by its name, in the order of their files."""
    declared: list[Task] = declared_in(__name__, __path__, "TASKS")
    return MappingProxyType({task.name: task for task in declared})


def find_task(name: str | None) -> Task:
    """A task by name, the default for None; InputError lists the names."""
    known = tasks()
    if name is not None and name not in known:
        raise InputError(unknown_choice("task", name, known))
    return known[name or DEFAULT]


def task_of(outputs: Collection[str]) -> Task | None:
    """What a file with these outputs was exported for; None where no task is declared for it."""
    return next((task for task in tasks().values() if task.output in outputs), None)


def describe_outputs(outputs: Collection[str]) -> str:
    """What a file gives, for a message: "maps of features (feat_0, feat_1)"."""
    task = task_of(outputs)
    return f"{task.gives if task else 'outputs of its own'} ({', '.join(outputs)})"


def judged_by_class(output: str, outputs: Collection[str]) -> bool:
    """Whether this of a file's outputs is judged by its classes too, where it is (B, classes).

    Of a task that is not declared the shape alone tells.
    """
    return output == LOGITS or task_of(outputs) is None
