"""What libraries underneath remark while they work: unheard, unless dynexport's logger is set to
DEBUG, as `--verbose` does and ``logging.getLogger("dynexport").setLevel(logging.DEBUG)``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = logging.getLogger("dynexport")


def let_through(wanted: bool) -> None:
    """Have remarks heard from here on, or not."""
    _LOGGER.setLevel(logging.DEBUG if wanted else logging.NOTSET)


def are_heard() -> bool:
    """Whether remarks are let through."""
    return _LOGGER.isEnabledFor(logging.DEBUG)


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
