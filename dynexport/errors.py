"""What can go wrong, and the exit code the command line gives it.

DynexportError
├── InputError               2  what was given cannot be used as it is
│   ├── CheckpointError          the file of weights
│   ├── ScheduleError            keep ratios and counts
│   ├── ModelError               a model configuration, variant or family
│   ├── ModelFileError           an ONNX file or a reference bundle
│   ├── EngineError              an engine, or the sidecar that describes it
│   ├── ImageError               a folder or array of images
│   └── CalibrationError         the ranges of a model's values on those images
├── MissingExtraError        2  an optional dependency is not installed
├── DeviceError              2  no GPU, no driver, or the GPU refused
├── BuildError               2  TensorRT refused the model, or cannot be used
└── VerificationError        1  the outputs were compared and differ

Anything else that is raised is a fault of dynexport's own, and exits with 70.

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dynexport.requirements import install_command


class DynexportError(Exception):
    """Base of every error dynexport raises on purpose; its text is one clear sentence."""

    exit_code = 2


class InputError(DynexportError):
    """What was given cannot be used as it is."""


class CheckpointError(InputError):
    """The checkpoint cannot be read, or does not fit the model it should fill."""


class ScheduleError(InputError):
    """The keep ratios make no valid schedule."""


class ModelError(InputError):
    """A model configuration, variant or family is not valid."""


class ModelFileError(InputError):
    """An ONNX file or reference bundle cannot be read, or lacks what is needed."""


class EngineError(InputError):
    """An engine or its sidecar is damaged, or was made for something else."""


class ImageError(InputError):
    """Images cannot be read, or are too few."""


class CalibrationError(InputError):
    """A model's values on the calibration images give no range to quantise by."""


class MissingExtraError(DynexportError):
    """An optional dependency is not installed: of an extra of dynexport, or of none."""

    def __init__(self, package: str, extra: str | None, instead_of: str | None = None) -> None:
        """``instead_of``: a distribution that holds the same modules, so must go first."""
        first = f"pip uninstall {instead_of}  and then  " if instead_of else ""
        super().__init__(
            f"{package} is not installed, and this step needs it: "
            f"run  {first}{install_command(package, extra)}"
        )


class DeviceError(DynexportError):
    """There is no GPU or no driver, or the GPU refused what was asked of it."""


class BuildError(DynexportError):
    """TensorRT cannot build an engine of the model, or cannot be used at all."""


class VerificationError(DynexportError):
    """The comparison ran and failed, or could compare nothing."""

    exit_code = 1


def unknown_choice(kind: str, found: str, choices: Iterable[str]) -> str:
    """One sentence for a wrong name: what was found, the nearest name, all the names."""
    names = list(choices)
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(found.lower(), lower, n=1) or [
        name for name in lower if found and found.lower() in name
    ]
    hint = f"did you mean {lower[near[0]]!r}? " if near else ""
    return f"unknown {kind} {found!r}: {hint}choose from {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def root_of(error: BaseException) -> BaseException:
    """The first cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
