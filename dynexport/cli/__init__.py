"""The command line, one file a command: it parses, calls one function and prints its result."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from dynexport.cli import (
    bench,
    build,
    check,
    convert,
    doctor,
    inspect,
    models,
    optimize,
    report,
    sweep,
    verify,
    visualize,
)
from dynexport.cli.options import as_options
from dynexport.cli.versions import tell_versions
from dynexport.errors import DynexportError
from dynexport.progress import are_heard, keep_stderr

PIPE_CLOSED = 141
"""The exit code of a program that SIGPIPE ended, as shells tell it."""

FAULT = 70
"""EX_SOFTWARE of sysexits.h: a fault in the program itself."""

app = typer.Typer(
    help="Deploy dynamically sparse vision models: convert a checkpoint to a lean, verified ONNX "
    "file, and measure it beside its dense twin.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": 110,
        "max_content_width": 110,  # no sentence cut short in a pipe
    },
)


def _version(asked: bool) -> None:
    if asked:
        print(tell_versions())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the versions.")
    ] = False,
) -> None:
    pass


# In the order in which they are used, which is that of `dynexport --help`.
app.command()(convert.convert)
app.command()(verify.verify)
app.command()(check.check)
app.command()(optimize.optimize)
app.command()(build.build)
app.command()(bench.bench)
app.command()(visualize.visualize)
app.command()(sweep.sweep)
app.command()(report.report)
app.command()(inspect.inspect)
app.command()(models.models)
app.command()(doctor.doctor)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every error is one sentence on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that drafts are removed
    gc.set_threshold(100_000, 5, 5)  # importing and tracing make a million objects that all stay:
    atexit.register(gc.freeze)  # looking for garbage among them takes a tenth of `convert`
    app.rich_markup_mode = "rich" if _is_watched() else None
    keep_stderr()
    try:
        _run(arguments)
    except DynexportError as error:
        _fail(str(error), error.exit_code)
    except (OSError, MemoryError) as error:  # a full disk, a limit
        if are_heard():
            traceback.print_exception(error)
        reason = str(error) or "there is not enough memory"
        _fail(f"the system refuses: {reason}", DynexportError.exit_code)
    except Exception as error:
        _own_up(error)
    raise AssertionError("unreachable: a standalone app exits by itself")


def _is_watched() -> bool:
    """Whether help and usage are read on a terminal that can show more than plain text."""
    if os.environ.get("FORCE_COLOR"):
        return True
    seen = sys.stdout.isatty() and sys.stderr.isatty()
    return seen and os.environ.get("TERM") not in ("dumb", "unknown")


def _run(arguments: list[str] | None) -> None:
    """Run a command; it ends quietly where nobody reads what it prints any longer."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    try:
        try:
            app(arguments, prog_name="dynexport")
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as left:  # typer and rich meet it, and leave with 1
        met = left if isinstance(left, BrokenPipeError) else left.__context__
        if not isinstance(met, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def _fail(sentence: str, code: int) -> NoReturn:
    from dynexport.cli.console import show_error

    show_error(as_options(sentence))
    sys.exit(code)


def _own_up(error: Exception) -> NoReturn:
    """What nobody foresaw is dynexport's fault, and said to be."""
    if are_heard():
        traceback.print_exception(error)
    where = "as shown above" if are_heard() else "run it again with --verbose to see where"
    told = f"{type(error).__name__}: {error}".splitlines()[0]
    _fail(f"a fault of dynexport's own, {where}: {told}", FAULT)
