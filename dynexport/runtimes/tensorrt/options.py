"""How an engine is built."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dynexport.errors import InputError

MOST_MIB = 1 << 24
"""16 TiB: beyond any GPU."""


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built; which edition takes what, `Edition.takes` says.

    workspace_mib         memory a layer may use while it runs, MiB; None: all there is
    optimization_level    0 (fast to build) to 5 (fast to run)
    tf32                  products of float32 may round their factors to 10 bits of mantissa
    version_compatible    the engine runs in later versions of the same major one
    hardware_compatible   the engine runs on any GPU from Ampere on
    compute_capabilities  GPUs to build for, as in 8.6
    dla_core              of a Jetson; what it cannot run goes to the GPU
    refit, strip_weights  weights can be exchanged; weights are left out until they are
    timing_cache          file of measurements to read and to add to; None: one in the user's
                          cache folder, for this GPU and version; "none": no file
    """

    workspace_mib: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()
    dla_core: int | None = None
    refit: bool = False
    strip_weights: bool = False
    timing_cache: str | None = None

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MOST_MIB:
            raise InputError(
                f"a workspace of {self.workspace_mib} MiB is none: give 1 to {MOST_MIB}"
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(
                f"optimization level {self.optimization_level} does not exist: give 0 to 5"
            )
        if self.dla_core is not None and self.dla_core < 0:
            raise InputError(f"DLA core {self.dla_core} does not exist: the first one is 0")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise InputError(
                    f"compute capability {capability!r} is not valid: write it as 8.6, "
                    "several as 8.6,8.9"
                )
