"""How a step that takes a while tells of itself, and what libraries underneath remark meanwhile.

Such remarks are unheard, unless dynexport's logger is set to DEBUG, as `--verbose` does and
``logging.getLogger("dynexport").setLevel(logging.DEBUG)``.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnStep = Callable[[str], None]
"""Told the name of each step as it begins, or a warning."""

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def silent(step: str) -> None:
    """An `OnStep` that says nothing."""


_LOGGER = logging.getLogger("dynexport")


def let_through(wanted: bool) -> None:
    """Have remarks heard from here on, or not."""
    _LOGGER.setLevel(logging.DEBUG if wanted else logging.NOTSET)


def are_heard() -> bool:
    """Whether remarks are let through."""
    return _LOGGER.isEnabledFor(logging.DEBUG)


class _Remarks(logging.Handler):
    """What any library logs, on stderr if remarks are let through."""

    def emit(self, record: logging.LogRecord) -> None:
        if are_heard() and logging.lastResort is not None:
            logging.lastResort.handle(record)


_REMARKS = _Remarks()


def keep_stderr() -> None:
    """Have what libraries log and warn of on stderr only where remarks are let through.

    That is for a program, whose stderr is its own.
    """
    logging.captureWarnings(True)
    logging.getLogger().addHandler(_REMARKS)


@contextmanager
def unheard(*loggers: str) -> Iterator[None]:
    """Warnings, and what these loggers tell below an error, unless remarks are let through."""
    if are_heard():
        yield
        return
    levels = {logger: logging.getLogger(logger).level for logger in loggers}
    try:
        for logger in loggers:
            logging.getLogger(logger).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logging.getLogger(logger).setLevel(level)


@contextmanager
def unheard_below() -> Iterator[None]:
    """What compiled code prints by itself, past Python, unless remarks are let through."""
    if are_heard():
        yield
        return
    library = ctypes.CDLL(None)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a daemon has none
        stream.flush()
    kept = [(number, os.dup(number)) for number in (1, 2) if _is_open(number)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        library.fflush(None)  # what it holds back would be printed later
        os.close(nowhere)
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _is_open(number: int) -> bool:
    """Whether a file descriptor is: a shell may have closed it."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
