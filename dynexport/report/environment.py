"""Where a report was made: this machine, and what is installed on it."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime
from pathlib import Path

from dynexport.doctor import Diagnosis, Package, Runtime, examine
from dynexport.report.facts import Environment


def read_environment() -> Environment:
    """Look at this machine; DynexportError if dynexport is not installed."""
    found = examine()
    packages = {one.name: one.version for one in _installed(found) if one.version}
    return Environment(
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        dynexport=found.dynexport,
        python=found.python,
        platform=found.platform,
        cpu=read_cpu_name(),
        cores=count_cores(),
        memory_bytes=read_memory(),
        packages=packages,
        runtimes={one.name: _told(one) for one in found.runtimes if one.state != "missing"},
        gpus=found.gpus,
        gpu_problem=found.gpu_problem,
    )


def _installed(found: Diagnosis) -> tuple[Package, ...]:
    return tuple(one for one in found.packages if one.state != "missing")


def _told(runtime: Runtime) -> str:
    return f"{runtime.version or 'of unknown version'}: {runtime.problem or runtime.note}"


def read_cpu_name() -> str | None:
    """As the kernel or the system calls it."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor() or None
    named = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", told, re.MULTILINE)
    return named[1].strip() if named else platform.machine() or None


def count_cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_memory() -> int | None:
    """Of the machine, bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None
