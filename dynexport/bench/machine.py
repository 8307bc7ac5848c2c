"""What a measurement was made on: the processor and what it can do, cores, versions, the day."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dynexport.runtimes import libraries
from dynexport.runtimes.library import version_of

FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),  # x86-64
    *("neon", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),  # Arm
)
"""Instructions that decide how fast matrix products are, as Linux calls them."""

PACKAGES = ("dynexport", "numpy", "onnx", "torch")
"""Whose versions count, besides those of the runtimes."""

CPU_INFO = Path("/proc/cpuinfo")
"""What Linux tells of the processor; other systems have no such file."""


@dataclass(frozen=True)
class Host:
    """A machine on a day.

    cpu       as the kernel calls it; None where it does not say
    flags     of `FLAGS`, those the kernel shows of it; None where it shows none (not Linux)
    cores     that this process may use
    versions  by package, of what is installed
    date      ISO 8601, with the offset from UTC
    """

    cpu: str | None
    flags: tuple[str, ...] | None
    cores: int
    platform: str
    python: str
    versions: dict[str, str]
    date: str


def read_machine() -> Host:
    """Look at this one."""
    told = read_cpu_info()
    return Host(
        cpu=read_cpu_name(told),
        flags=read_cpu_flags(told),
        cores=count_cores(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions=read_versions(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def read_cpu_info() -> str:
    """What the kernel tells of the processor; empty where it does not."""
    return CPU_INFO.read_text() if CPU_INFO.exists() else ""


def read_cpu_name(told: str) -> str | None:
    """As Linux tells it in /proc/cpuinfo, or the system; None where neither does."""
    named = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", told, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine() or None


def read_cpu_flags(told: str) -> tuple[str, ...] | None:
    """Of `FLAGS`, those of the first core in /proc/cpuinfo; None where it lists none."""
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", told, re.MULTILINE)
    if listed is None:
        return None
    shown = set(listed[1].split())
    return tuple(flag for flag in FLAGS if flag in shown)


def count_cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_versions() -> dict[str, str]:
    """By package, of `PACKAGES` and of what brings a runtime, as far as it is installed."""
    names = [*PACKAGES, *(name for library in libraries() for name in library.packages)]
    found = {name: version_of(name) for name in dict.fromkeys(names)}
    return {name: version for name, version in found.items() if version is not None}
