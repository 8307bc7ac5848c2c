"""ONNX Runtime, on the CPU or through one of its GPU providers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dynexport.errors import DeviceError, MissingExtraError, ModelFileError
from dynexport.progress import are_heard
from dynexport.requirements import install_command
from dynexport.runtimes import NO_INPUTS, Further, Library, Machine, Runtime, Use
from dynexport.runtimes.library import version_of
from dynexport.runtimes.refusals import in_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WARNINGS, FATAL = 2, 4
"""onnxruntime's log severities. Its warnings are about its own optimiser, and what it logs as an
error it raises as well."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    TENSORRT: {"trt_engine_cache_enable": "0"},
    CUDA: {"use_tf32": "0"},
}
"""float32 means float32: outputs are compared with PyTorch's."""


@dataclass(frozen=True)
class OnnxRuntime(Library):
    """ONNX Runtime, whichever of its distributions it is from."""

    def examine(self) -> tuple[str | None, tuple[str, ...]]:
        """Its version and execution providers."""
        if super().examine()[0] is None:
            return None, ()
        import onnxruntime

        return onnxruntime.__version__, tuple(onnxruntime.get_available_providers())

    def judge(self, machine: Machine, providers: tuple[str, ...]) -> Use:
        """What it runs models on, and how it would come to use a GPU that is there."""
        names = [
            name.removesuffix("ExecutionProvider") for name in providers if "Azure" not in name
        ]
        note = f"{self.note} {', '.join(names)}"
        if machine.gpu and "CUDA" not in names:
            note += (
                "; to use the GPU too, replace it: pip uninstall onnxruntime, then "
                + install_command("onnxruntime-gpu", "gpu")
            )
        return Use(runs=True, builds=False, note=note)


LIBRARY = OnnxRuntime(
    name="onnxruntime",
    module="onnxruntime",
    extra="cpu",
    distributions=("onnxruntime", "onnxruntime-gpu"),
    note="runs models on",
    compares=True,
)

RUNTIMES = (
    Runtime(
        "onnxruntime",
        LIBRARY,
        open=lambda *given: open_session(CPU, *given),
        require=lambda: _load(CPU),
        half="emulated",
    ),
    Runtime(
        "onnxruntime-cuda",
        LIBRARY,
        open=lambda *given: open_session(CUDA, *given),
        require=lambda: _load(CUDA),
        on_gpu=True,
    ),
    Runtime(
        "onnxruntime-tensorrt",
        LIBRARY,
        open=lambda *given: open_session(TENSORRT, *given),
        require=lambda: _load(TENSORRT),
        on_gpu=True,
        compiles=True,
    ),
)


class OnnxRuntimeRunner:
    """An inference session; see `dynexport.runtimes.Runner`."""

    def __init__(
        self,
        model: str | Path | bytes,
        provider: str = CPU,
        threads: int | None = None,
        profile: bool = False,
        in_order: bool = False,
        as_written: bool = False,
    ) -> None:
        """Open an ONNX file, or its bytes, on ``threads`` cores (None: the runtime's choice).

        in_order: compute nodes in the order they stand in. Else the runtime may leave what looks
        at a value for the end, and keep every value till then.
        as_written: join and fold nothing, so that a large graph is opened in half the time.
        """
        self._owned = ExitStack()
        onnxruntime = _load(provider)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = WARNINGS if are_heard() else FATAL
        if threads:
            options.intra_op_num_threads = threads
        if in_order:
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            if profile:
                import tempfile

                folder = self._owned.enter_context(tempfile.TemporaryDirectory())
                options.enable_profiling, options.profile_file_prefix = True, f"{folder}/layers"
            self._session: Any = _open(onnxruntime, model, options, provider)
            self._dtype = _images_dtype(self._session)
        except BaseException:
            self._owned.close()
            raise
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(
        self, images: NDArray[np.float32], further: Further = NO_INPUTS
    ) -> dict[str, NDArray[np.generic]]:
        """See `dynexport.runtimes.Runner`; ModelFileError if the graph cannot be computed."""
        fed = {"images": images.astype(self._dtype, copy=False), **further}
        try:
            results = self._session.run(self._outputs, fed)
        except Exception as error:  # the runtime's own exception types are not exported
            raise ModelFileError(f"ONNX Runtime cannot run the model: {in_words(error)}") from None
        return dict(zip(self._outputs, results, strict=True))

    def layers(self) -> dict[str, float]:
        """See `dynexport.runtimes.LayerRunner`."""
        import json
        from statistics import median

        times: dict[str, list[float]] = {}
        for event in json.loads(Path(self._session.end_profiling()).read_text()):
            name = event.get("name", "")
            if event.get("cat") == "Node" and name.endswith("_kernel_time"):
                layer = name.removesuffix("_kernel_time")
                times.setdefault(layer, []).append(event["dur"] / 1000.0)
        return {layer: median(runs) for layer, runs in times.items()}

    def __enter__(self) -> OnnxRuntimeRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._owned.close()


class OnnxRuntimeGpuRunner(OnnxRuntimeRunner):
    """The same on the GPU, where images and answers can stay (`dynexport.runtimes.GpuRunner`)."""

    _bound: NDArray[np.float32] | None = None
    _binding: Any = None
    _options: Any = None

    def run(
        self, images: NDArray[np.float32], further: Further = NO_INPUTS
    ) -> dict[str, NDArray[np.generic]]:
        if not further and (self._bound is None or self._bound.shape != images.shape):
            self._bind(images)
            self._bound = images
        return super().run(images, further)

    def measure(self) -> tuple[float, float]:
        """Wall-clock times: this runtime does not show its stream."""
        start = perf_counter()
        self._session.run_with_iobinding(self._binding, self._options)
        enqueued = perf_counter() - start
        self._binding.synchronize_outputs()
        return perf_counter() - start, enqueued

    def _bind(self, images: NDArray[np.float32]) -> None:
        import onnxruntime

        self._options = onnxruntime.RunOptions()
        # else a run ends only when the GPU is done, and nothing is told of enqueueing
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        given = images.astype(self._dtype, copy=False)
        on_gpu = onnxruntime.OrtValue.ortvalue_from_numpy(given, "cuda", 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("images", on_gpu)
        for name in self._outputs:
            self._binding.bind_output(name, "cuda")


def open_session(
    provider: str, model: str | Path | bytes, threads: int | None, profile: bool
) -> OnnxRuntimeRunner:
    """A runner for an execution provider."""
    kind = OnnxRuntimeRunner if provider == CPU else OnnxRuntimeGpuRunner
    return kind(model, provider, threads, profile)


def _open(onnxruntime: Any, model: str | Path | bytes, options: Any, provider: str) -> Any:
    """A session on a provider that computes; ModelFileError or DeviceError if there is none."""
    providers = [(name, PROVIDER_OPTIONS.get(name, {})) for name in _with_fallback(provider)]
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(
            source, options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # the runtime's own exception types are not exported
        raise ModelFileError(f"ONNX Runtime cannot load the model: {in_words(error)}") from None
    if provider not in session.get_providers():  # it falls back to the CPU silently
        raise DeviceError(
            f"ONNX Runtime cannot use its {provider} here: it needs an NVIDIA GPU, its driver "
            "and the CUDA libraries of that version (`dynexport doctor` tells what is there)"
        )
    return session


def _images_dtype(session: Any) -> np.dtype[Any]:
    """What the graph takes its images as, float32 or half; ModelFileError if numpy has no such
    type."""
    import numpy as np

    kinds = {value.name: value.type for value in session.get_inputs()}
    dtypes: dict[str, np.dtype[Any]] = {
        "tensor(float)": np.dtype(np.float32),
        "tensor(float16)": np.dtype(np.float16),
    }
    kind = kinds.get("images", "tensor(float)")
    if kind not in dtypes:
        raise ModelFileError(
            "the model takes its images in a type that ONNX Runtime cannot be given from "
            "Python (bf16 is one): convert it again with inputs and outputs in float32"
        )
    return dtypes[kind]


def _with_fallback(provider: str) -> tuple[str, ...]:
    """A provider, and where what it does not take may run: TensorRT's leaves nodes to CUDA."""
    if provider == TENSORRT:
        return provider, CUDA
    return (provider,)


def _load(provider: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu" if provider == CPU else "gpu") from None
    onnxruntime.disable_telemetry_events()
    if provider not in onnxruntime.get_available_providers():
        # the two hold the same modules: side by side neither works
        here = "onnxruntime" if version_of("onnxruntime") else None
        raise MissingExtraError(f"onnxruntime with its {provider}", "gpu", instead_of=here)
    return onnxruntime
