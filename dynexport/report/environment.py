"""Where a report was made: this machine, and what is installed on it."""

from __future__ import annotations

import os
from datetime import datetime

from dynexport.bench.machine import count_cores, read_cpu_info, read_cpu_name
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
        cpu=read_cpu_name(read_cpu_info()),
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


def read_memory() -> int | None:
    """Of the machine, bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None
