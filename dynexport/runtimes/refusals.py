"""ONNX Runtime's complaints in words: which node, and what is wrong with it."""

from __future__ import annotations

import re

CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
LOADED_FROM = re.compile(r"^Load model from .*? failed: ?")
SOURCE = re.compile(r"\S+\.(?:cc|h|cpp):\d+ (?:\S+ )??onnxruntime::.*?\) (?:const )?(?=\w)")
"""Where in its own source it stood, and in which function."""

ASSERTION = re.compile(r"\S+ (?:==|!=|<=|>=|<|>) \S+ was false\. ?")
"""What it asserted, in the names of its own source."""

NODES = (
    re.compile(
        r"Node \((?P<node>.*?)\) Op \((?P<operator>\w+)\) (?:\[\w+\] )?(?P<what>.*)", re.DOTALL
    ),
    re.compile(
        r"Non-zero status code returned while running (?P<operator>\w+) node\. "
        r"Name:'(?P<node>.*?)' Status Message: (?P<what>.*)",
        re.DOTALL,
    ),
    re.compile(
        r'In Node, \("(?P<node>.*?)", (?P<operator>\w+), .*?, Error (?P<what>.*)', re.DOTALL
    ),
    re.compile(
        r"(?P<what>Could not find an implementation for (?P<operator>\w+)\(\d+\)) "
        r"node with name '(?P<node>.*?)'"
    ),
)
"""The ways it names a node."""


def in_words(error: Exception) -> str:
    """A complaint in one line, the node first where one is named."""
    told = LOADED_FROM.sub("", CODE.sub("", str(error).strip()))
    for pattern in NODES:
        if found := pattern.search(told):
            name, operator = found["node"], found["operator"]
            named = f"node {name} ({operator})" if name else f"its {operator}"
            told = f"{named}: {found['what']}"
            break
    lines = ASSERTION.sub("", SOURCE.sub("", told)).strip().splitlines()
    return lines[0].rstrip(" .") if lines else type(error).__name__
