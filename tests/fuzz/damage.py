"""Bytes and values that are not as a tool wrote them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

ODD_NUMBERS = (0, -1, 1, 3, 2**31, 2**63 - 1, -(2**63), 10**30, 0.5, -0.0, 1e308)
ODD_TEXTS = (
    "",
    " ",
    "\0",
    "\x1b[31m",
    "a\nb",
    "é模型",
    "../..",
    "/",
    "[bold]",
    "{}",
    "%s",
    "x" * 300,
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, [], {}, [[]], {"": None}, [1, "a", None]),
    *ODD_NUMBERS,
    *ODD_TEXTS,
    *(float("nan"), float("inf"), float("-inf")),
)
"""What no file has in these places."""


def damage(content: bytes, random: Random) -> bytes:
    """A file's bytes with one to three accidents."""
    for _ in range(random.randint(1, 3)):
        content = random.choice(ACCIDENTS)(content, random)
    return content


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 4, 64))):
        if changed:
            changed[_place(len(changed), random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, random: Random) -> bytes:
    start = _place(len(content), random)
    size = random.choice((1, 4, 8, 100))
    filling = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))
    return content[:start] + filling + content[start + size :]


def _truncate(content: bytes, random: Random) -> bytes:
    return content[: _place(len(content), random)]


def _cut_out(content: bytes, random: Random) -> bytes:
    start = _place(len(content), random)
    return content[:start] + content[start + random.choice((1, 16, 1000)) :]


def _splice(content: bytes, random: Random) -> bytes:
    start, end = sorted((_place(len(content), random), _place(len(content), random)))
    at = _place(len(content), random)
    return content[:at] + content[start : min(end, start + 5000)] + content[at:]


def _append(content: bytes, random: Random) -> bytes:
    return content + random.choice((b"\0", content[:200], random.randbytes(50)))


ACCIDENTS: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_flip, _flip, _overwrite, _truncate, _cut_out, _splice, _append),
)


def _place(size: int, random: Random) -> int:
    """Anywhere, or near an end, where headers and directories stand."""
    if size == 0:
        return 0
    near = min(size, 2000)
    return random.choice(
        (random.randrange(size), random.randrange(near), size - 1 - random.randrange(near))
    )


def change_value(value: Any, random: Random) -> Any:
    """A copy of nested dicts and lists with one thing in it another."""
    value = copy.deepcopy(value)
    inside = [part for part in _containers(value) if part]
    if not inside or random.random() < 0.05:
        return random.choice(ODD_VALUES)
    part = random.choice(inside)
    key = random.choice(list(part) if isinstance(part, dict) else range(len(part)))
    action = random.randrange(6)
    if action == 0:
        del part[key]
    elif action == 1 and isinstance(part, dict):
        part[random.choice(ODD_TEXTS)] = part.pop(key)
    elif action == 2:
        part[key] = [part[key]]
    elif action == 3:
        part[key] = str(part[key])
    else:
        part[key] = random.choice(ODD_VALUES)
    return value


def change_json(text: str, random: Random) -> str:
    """JSON of another shape, or none."""
    if random.random() < 0.1:
        return random.choice(("", "{", "[" * 100_000, '{"a":' * 5000, "1e999", "nul", '"\\ud800"'))
    return json.dumps(change_value(json.loads(text), random))


def _containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, (dict, list)) else []
    return own + [part for each in inner for part in _containers(each)]
