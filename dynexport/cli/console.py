"""How results and progress reach people: tables on a terminal, plain lines in a pipe, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dynexport.progress import OnProgress, OnStep


def print_json(result: Any) -> None:
    """A result as JSON, alone on stdout."""
    plain = result if isinstance(result, (dict, list)) else dataclasses.asdict(result)
    print(json.dumps(_finite(plain), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress(quiet: bool, verbose: bool = False) -> Iterator[OnStep]:
    """A function to tell of each step: a spinner on a terminal, a line each elsewhere."""
    with build_progress(quiet, verbose) as (on_step, _):
        yield on_step


@contextmanager
def build_progress(quiet: bool, verbose: bool = False) -> Iterator[tuple[OnStep, OnProgress]]:
    """Functions to tell of steps, and of TensorRT's phases.

    A spinner and bars on a terminal, a line each elsewhere. When verbose, a line tells each step's
    seconds.

    Progress goes to stderr, so that stdout is the result alone.
    """
    console = Console(stderr=True, quiet=quiet, emoji=False, highlight=False)
    watched = sys.stderr.isatty() and not console.is_dumb_terminal and not quiet
    with (_draw_bars if watched else _say_lines)(console) as (on_step, on_progress):
        if not verbose:
            yield on_step, on_progress
            return
        timed = _time_steps(on_step, lambda line: _say(console, line))
        yield timed, on_progress
        timed("")


def _time_steps(on_step: OnStep, tell: OnStep) -> OnStep:
    """An `OnStep` that tells the seconds of the step before; one without a name is the end."""
    last: list[tuple[str, float]] = []

    def begin(step: str) -> None:
        now = perf_counter()
        if last:
            name, since = last.pop()
            tell(f"{name}: {now - since:.2f} s")
        if step:
            last.append((step, now))
            on_step(step)

    return begin


def _say(console: Console, line: str) -> None:
    console.print(f"... {line}", markup=False, soft_wrap=True)


@contextmanager
def _say_lines(console: Console) -> Iterator[tuple[OnStep, OnProgress]]:
    told: set[str] = set()

    def say_once(phase: str, done: int, steps: int) -> None:
        if phase not in told:
            told.add(phase)
            _say(console, phase)

    yield lambda step: _say(console, step), say_once


@contextmanager
def _draw_bars(console: Console) -> Iterator[tuple[OnStep, OnProgress]]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks = {"": bars.add_task("starting", total=None)}

        def fill(phase: str, done: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(escape(phase), total=steps)
            bars.update(tasks[phase], total=steps, completed=done, visible=done < steps)

        yield lambda step: bars.update(tasks[""], description=escape(step)), fill


def show_warning(warning: str) -> None:
    """A warning, on stderr, whatever else is quiet."""
    _stderr().print(f"[bold yellow]warning:[/] {escape(warning)}")


def show_note(note: str) -> None:
    """What is good to know, on stderr."""
    _stderr().print(escape(note))


def show_error(error: str) -> None:
    """What kept a command from its work, on stderr."""
    _stderr().print(f"[bold red]error:[/] {escape(error)}")


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def stdout() -> Console:
    """Wide enough that nothing is folded where nobody watches."""
    width = max(120, shutil.get_terminal_size().columns)  # a terminal folds, figures stay whole
    return Console(highlight=False, soft_wrap=True, emoji=False, width=width)


def macs_unit(counts: Iterable[int]) -> tuple[str, float]:
    """GMACs, or MMACs where every model is small, and how many multiply-accumulates that is."""
    return ("MMACs", 1e6) if all(count < 1e9 for count in counts) else ("GMACs", 1e9)


def make_table(*columns: str) -> Table:
    """A table with numbers to the right and no frame."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    return table
