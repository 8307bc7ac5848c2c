"""Writes docs/api.md, the reference of the Python API, from the docstrings of the public names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import dynexport

PAGE = Path(__file__).parents[1] / "api.md"
HEAD = """\
# Python

`make docs` writes this page from the docstrings; `help(dynexport.convert)` says the same. These
names, all of `dynexport.__all__`, are what is public ([Versions](versions.md)). Each imports what
it needs when it is first used: `import dynexport` imports neither PyTorch nor a runtime.

Everything that goes wrong raises a `DynexportError` whose text says what was found, what was
expected and what to do. Steps are told to `on_step` and warnings to `on_warning`, functions of a
string.
"""
SHORTEST = 88
"""Signatures longer than that have a line a parameter."""


def describe_names() -> str:
    """The page: a section for each public name, functions first, then classes."""
    found = {name: getattr(dynexport, name) for name in dynexport.__all__}
    functions = [name for name, one in found.items() if not inspect.isclass(one)]
    classes = [name for name, one in found.items() if inspect.isclass(one)]
    sections = ["\n".join(_describe(name, found[name])) for name in (*functions, *classes)]
    return "\n".join([HEAD, "\n\n".join(sections), ""])


def _describe(name: str, one: Any) -> Iterator[str]:
    """Heading, what it is, signature, and the rest of the docstring as it is laid out."""
    first, _, rest = inspect.cleandoc(one.__doc__).partition("\n")
    yield from (f"## {name}", "", first, "", "```text", _signature(name, one))
    if rest.strip():
        yield from ("", rest.strip())
    yield "```"
    if inspect.isfunction(one):
        yield from _result(one)
    told = list(_members(one)) if inspect.isclass(one) else []
    if told:
        yield from ("", *told)


def _result(function: Any) -> Iterator[str]:
    """What comes back, where it is a class of ours that has no section of its own."""
    kind = get_type_hints(function)["return"]
    ours = getattr(kind, "__module__", "").startswith("dynexport.")
    if not ours or kind.__name__ in dynexport.__all__:
        return
    first, _, rest = inspect.cleandoc(kind.__doc__).partition("\n")
    yield from ("", f"Returns `{kind.__module__}.{kind.__name__}`. {first}")
    if rest.strip():
        yield from ("", "```text", rest.strip(), "```")


def _signature(name: str, one: Any) -> str:
    """As it is called: annotations as they are written, defaults as they are."""
    if inspect.isclass(one) and issubclass(one, Exception):
        return f"{name}(message)"
    signature = inspect.signature(one)
    if inspect.isclass(one):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    parts = [_parameter(each) for each in signature.parameters.values()]
    keyword = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    if keyword:
        place = [*signature.parameters].index(keyword[0])
        parts.insert(place, "*")
    returns = signature.return_annotation
    ends = "" if returns is inspect.Signature.empty else f" -> {returns}"
    line = f"{name}({', '.join(parts)}){ends}"
    if len(line) <= SHORTEST:
        return line
    lines = "".join(f"    {part},\n" for part in parts)
    return f"{name}(\n{lines}){ends}"


def _parameter(each: inspect.Parameter) -> str:
    """Name, annotation and default; a default that says nothing, as a function's, is left open."""
    told = each.name
    if each.annotation is not inspect.Parameter.empty:
        told += f": {each.annotation}"
    if each.default is inspect.Parameter.empty:
        return told
    default = repr(each.default)
    return f"{told} = {'...' if default.startswith('<') else default}"


def _members(kind: type) -> Iterator[str]:
    """Public methods and properties that the class itself defines, a line each."""
    for name, member in vars(kind).items():
        if name.startswith("_") or not getattr(member, "__doc__", None):
            continue
        if isinstance(member, property):
            told = f".{name}"
        elif inspect.isfunction(member):
            told = f".{name}()"
        elif isinstance(member, (classmethod, staticmethod)):
            told = f"{kind.__name__}.{name}()"
        else:
            continue
        yield f"- `{told}`: {inspect.cleandoc(member.__doc__ or '').splitlines()[0]}"


if __name__ == "__main__":
    PAGE.write_text(describe_names())
    print(f"wrote {PAGE}", file=sys.stderr)
