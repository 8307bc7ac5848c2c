"""``python -m dynexport``, and what the installed command starts."""

from __future__ import annotations

import sys
from typing import NoReturn

from dynexport.errors import DynexportError

INTERRUPTED = 130
"""The exit code of a program that SIGINT ended, as shells tell it."""


def main() -> NoReturn:
    """Run the command line.

    Importing it takes longer than it takes to think better of it, so an interruption ends that
    quietly too.
    """
    try:
        from dynexport.cli import main

        main()
    except DynexportError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
