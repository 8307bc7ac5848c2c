"""What a measurement was made on, and where it is written."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dynexport", "torch", "onnx", "onnxruntime", "openvino", "onnxslim", "numpy")
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that multiply int8 and add in int32, as Linux calls them."""


def processor() -> str:
    """The processor's name, as the system tells it."""
    found = re.search(r"model name\s*:\s*(.+)", _cpuinfo())
    return found.group(1) if found else platform.processor() or platform.machine()


def dot_products() -> list[str]:
    """Which int8 instructions the system shows of the processor."""
    shown = set(re.findall(r"\w+", _cpuinfo()))
    return [name for name in DOT_PRODUCTS if name in shown]


def write_results(
    benchmark: str, options: argparse.Namespace, results: dict[str, Any], table: str
) -> Path:
    """JSON and Markdown under benchmarks/results/, named by ``options.name`` and the processor;
    returns the path of the latter."""
    versions = _versions()
    facts = {
        "command": shlex.join(["python", f"benchmarks/{benchmark}.py", *sys.argv[1:]]),
        "options": {flag: value for flag, value in vars(options).items() if flag != "name"},
        "processor": processor(),
        "cores": os.cpu_count(),
        "int8_instructions": dot_products(),
        "versions": versions,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    path = RESULTS / f"{options.name}_{slug}-{os.cpu_count()}-cores"
    path.with_suffix(".json").write_text(json.dumps({**facts, **results}, indent=1) + "\n")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = f"`{facts['command']}`\n\n{facts['processor']}, {facts['cores']} cores; {listed}; "
    head += f"`{facts['options']}`"
    path.with_suffix(".md").write_text(f"{head}\n\n{table}\n")
    print(f"wrote {path}.json and .md")
    return path.with_suffix(".md")


def _versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _cpuinfo() -> str:
    facts = Path("/proc/cpuinfo")
    return facts.read_text() if facts.exists() else ""
