"""What a measurement was made on, and where it is written."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from dynexport.bench.machine import read_cpu_flags, read_cpu_info, read_cpu_name, read_machine

RESULTS = Path(__file__).parent / "results"
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that multiply int8 and add in int32, as Linux calls them."""


def processor() -> str:
    """The processor's name, as the system tells it."""
    return read_cpu_name(read_cpu_info()) or "unknown"


def dot_products() -> list[str]:
    """Which int8 instructions the system shows of the processor."""
    return [name for name in read_cpu_flags(read_cpu_info()) or () if name in DOT_PRODUCTS]


def write_results(
    benchmark: str, options: argparse.Namespace, results: dict[str, Any], table: str
) -> Path:
    """JSON and Markdown under benchmarks/results/, named by ``options.name`` and the processor;
    returns the path of the latter."""
    host = read_machine()
    facts = {
        "command": shlex.join(["python", f"benchmarks/{benchmark}.py", *sys.argv[1:]]),
        "options": {flag: value for flag, value in vars(options).items() if flag != "name"},
        "processor": processor(),
        "cores": os.cpu_count(),
        "int8_instructions": dot_products(),
        "versions": host.versions,
        "machine": dataclasses.asdict(host),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    path = RESULTS / f"{options.name}_{slug}-{os.cpu_count()}-cores"
    path.with_suffix(".json").write_text(json.dumps({**facts, **results}, indent=1) + "\n")
    listed = ", ".join(f"{name} {version}" for name, version in host.versions.items())
    head = f"`{facts['command']}`\n\n{facts['processor']}, {facts['cores']} cores; {listed}; "
    head += f"`{facts['options']}`"
    path.with_suffix(".md").write_text(f"{head}\n\n{table}\n")
    print(f"wrote {path}.json and .md")
    return path.with_suffix(".md")
