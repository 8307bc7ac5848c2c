"""Writes docs/cli.md, the reference of the command line, from the commands themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from dynexport.cli import app

PAGE = Path(__file__).parents[1] / "cli.md"
HEAD = """\
# Command line

`make docs` writes this page from the code; `dynexport COMMAND --help` says the same. Exit codes: 0
done, 1 verification failed or TensorRT will refuse the model, 2 bad input.
"""


def describe_commands() -> str:
    """The page: a section for each command, in the order of `dynexport --help`."""
    root: Any = get_command(app)
    sections = [
        "\n".join([f"## dynexport {name}", "", *_describe(name, command)])
        for name, command in root.commands.items()
        if not command.hidden
    ]
    general = "\n".join(["## dynexport", "", *_items(_options(root)), ""])
    return "\n".join([HEAD, general, "\n\n".join(sections), ""])


def _describe(name: str, command: Any) -> list[str]:
    """Usage, what it does, its arguments and its options."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    given = [_placeholder(param) for param in arguments]
    usage = " ".join(["dynexport", name, *given, "[OPTIONS]"])
    told = [param for param in arguments if param.help]
    text = " ".join(command.help.split())
    return [f"`{usage}`", "", text, "", *_items([*told, *_options(command)])]


def _options(command: Any) -> list[Any]:
    return [
        param
        for param in command.params
        if param.param_type_name == "option" and not param.hidden and param.name != "help"
    ]


def _items(params: list[Any]) -> list[str]:
    return [f"- {_names(param)}: {_meaning(param)}" for param in params]


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_placeholder(param)}`"
    names: list[str] = [*param.opts, *param.secondary_opts]
    *first, last = names
    value = "" if param.is_flag else f" {_placeholder(param)}"
    return ", ".join([*(f"`{name}`" for name in first), f"`{last}{value}`"])


def _placeholder(param: Any) -> str:
    name = param.metavar or param.name.rpartition("_")[2].upper()
    return name if param.required or param.param_type_name == "option" else f"[{name.strip('[]')}]"


def _meaning(param: Any) -> str:
    text = " ".join((param.help or "").split())
    shown = param.show_default and param.default not in (None, False, "", (), [])
    return f"{text} Default: {param.default}." if shown else text


if __name__ == "__main__":
    PAGE.write_text(describe_commands())
    print(f"wrote {PAGE}", file=sys.stderr)
