"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import MissingExtraError, ModelFileError

ERRORS_ONLY = 3
"""onnxruntime's log severity: its warnings are about its own optimiser."""


class OnnxRuntimeRunner:
    """An inference session; see `dynexport.backends.Runner`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        results = self._session.run(self._outputs, {"images": images})
        return dict(zip(self._outputs, results, strict=True))

    def __enter__(self) -> OnnxRuntimeRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None


def open_runner(model: str | Path | bytes, threads: int | None = None) -> OnnxRuntimeRunner:
    """Open an ONNX file, or its bytes, on ``threads`` cores (None: the runtime's choice)."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if threads:
        options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exception types are not exported
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(f"ONNX Runtime cannot load the model: {reason}") from None
    return OnnxRuntimeRunner(session)
