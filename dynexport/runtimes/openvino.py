"""OpenVINO, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynexport.errors import DeviceError, ModelFileError
from dynexport.runtimes import NO_INPUTS, Further, Library, Runtime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIBRARY = Library(
    name="openvino",
    module="openvino",
    extra="openvino",
    note="runs models on the CPU, with --backend openvino",
)
RUNTIMES = (
    Runtime(
        "openvino",
        LIBRARY,
        open=lambda *given: OpenVinoRunner("f32", *given),
        compiles=True,
        half="float32",
    ),
    Runtime(
        "openvino-bf16",
        LIBRARY,
        open=lambda *given: OpenVinoRunner("bf16", *given),
        compiles=True,
    ),
)

DEVICE = "CPU"

NOT_CONVERTED = "Model wasn't fully converted."
"""Of an operator it does not know OpenVINO says this before it says which."""

Shapes = tuple[tuple[int, ...], ...]
"""Of what a graph is fed, in the order of its inputs."""


class OpenVinoRunner:
    """A model compiled for each batch size it is given; see `dynexport.runtimes.Runner`.

    With every shape known it compiles to less and runs some per cent faster than one program for
    all sizes would. A program holds the weights in a layout of its own, so each size takes memory.
    """

    def __init__(
        self,
        precision: str,
        model: str | Path | bytes,
        threads: int | None = None,
        profile: bool = False,
    ) -> None:
        """Read an ONNX file, or its bytes, to run on ``threads`` cores (None: OpenVINO's choice).

        precision: f32 or bf16, what it computes in where a graph says float32 or half; of itself
        it would take bf16 on every processor that has it. int8 stays int8.
        """
        openvino = _load()
        self._core: Any = openvino.Core()
        if precision == "bf16" and "BF16" not in self._capabilities():
            raise DeviceError(
                "this processor does not compute in bf16, as those with AMX or AVX512_BF16 do: "
                "use `backend` openvino"
            )
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "PERF_COUNT": profile,
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        }
        self._fits = openvino.PartialShape
        self._requests: dict[Shapes, Any] = {}
        self._times: dict[str, list[float]] = {}
        self._names: dict[str, str] = {}
        self._profiled = profile
        try:
            self._model: Any = self._core.read_model(
                model if isinstance(model, bytes) else str(model)
            )
        except RuntimeError as error:
            raise ModelFileError(f"OpenVINO cannot load the model: {_reason(error)}") from None
        self._inputs = {given.get_any_name(): given.partial_shape for given in self._model.inputs}
        # a compiled model may know an output by the name of what stands before it as well
        self._outputs = [output.get_any_name() for output in self._model.outputs]
        self._dtype = _images_dtype(self._model)

    def run(
        self, images: NDArray[np.float32], further: Further = NO_INPUTS
    ) -> dict[str, NDArray[np.generic]]:
        """See `dynexport.runtimes.Runner`; ModelFileError if the graph cannot be computed.

        What the graph gives in bf16 comes in float32, the same numbers: numpy has no bf16.
        """
        fed = {"images": images.astype(self._dtype, copy=False), **further}
        self._require_fitting(fed)
        try:
            request = self._request_for(fed)
            answers = request.infer(fed, share_inputs=True)
        except RuntimeError as error:
            raise ModelFileError(f"OpenVINO cannot run the model: {_reason(error)}") from None
        if self._profiled:
            self._note_times(request)
        return {
            name: _in_numpy(values, output.element_type.get_type_name())
            for name, (output, values) in zip(self._outputs, answers.items(), strict=True)
        }

    def layers(self) -> dict[str, float]:
        """See `dynexport.runtimes.LayerRunner`."""
        from statistics import median

        return {layer: median(runs) for layer, runs in self._times.items()}

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.clear()
        self._model = None

    def _capabilities(self) -> list[str]:
        return list(self._core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))

    def _require_fitting(self, fed: dict[str, NDArray[Any]]) -> None:
        """ModelFileError unless inputs and shapes are the model's: OpenVINO computes with whatever
        is in memory for an input that is not given, and with any size that its nodes take."""
        if fed.keys() != self._inputs.keys():
            raise ModelFileError(
                f"OpenVINO cannot run the model: it takes {', '.join(self._inputs)}, and was given "
                f"{', '.join(fed)}"
            )
        for name, values in fed.items():
            if not self._inputs[name].compatible(self._fits(list(values.shape))):
                raise ModelFileError(
                    f"OpenVINO cannot run the model: it takes {name} of shape "
                    f"{self._inputs[name]}, and was given {list(values.shape)}"
                )

    def _request_for(self, fed: dict[str, NDArray[Any]]) -> Any:
        """What runs inputs of these shapes, compiled when they are first seen."""
        shapes = {name: list(fed[name].shape) for name in self._inputs}
        key = tuple(map(tuple, shapes.values()))
        if key not in self._requests:
            self._model.reshape(shapes)
            compiled = self._core.compile_model(self._model, DEVICE, self._options)
            self._requests[key] = compiled.create_infer_request()
            if self._profiled:
                self._names |= _layer_names(compiled.get_runtime_model())
        return self._requests[key]

    def _note_times(self, request: Any) -> None:
        """Milliseconds of every layer in the last run; one that bears no node's name, a step of a
        norm or of a function, counts to the next that does."""
        run: dict[str, float] = {}
        name, waiting = "", 0.0
        for layer in request.profiling_info:
            waiting += layer.real_time.total_seconds() * 1000.0
            name = self._names.get(layer.node_name, layer.node_name)
            if "/" in name:
                run[name] = run.get(name, 0.0) + waiting
                waiting = 0.0
        if waiting:
            run[name] = waiting
        for name, milliseconds in run.items():
            self._times.setdefault(name, []).append(milliseconds)


def _layer_names(program: Any) -> dict[str, str]:
    """By layer the name of a node of the graph that it was made of, the last one, as they are named
    after modules. Of itself a layer bears the name of whatever OpenVINO made the node into."""
    names = {}
    for layer in program.get_ordered_ops():
        facts = layer.get_rt_info()
        made_of = facts["originalLayersNames"].astype(str) if "originalLayersNames" in facts else ""
        named = [name for name in made_of.split(",") if "/" in name]
        if named:
            names[layer.get_friendly_name()] = named[-1]
    return names


def _images_dtype(model: Any) -> np.dtype[Any]:
    """What the graph takes its images as, float32 or half."""
    import numpy as np

    dtypes: dict[str, np.dtype[Any]] = {
        "f32": np.dtype(np.float32),
        "f16": np.dtype(np.float16),
    }
    kinds = {given.get_any_name(): given.element_type.get_type_name() for given in model.inputs}
    kind = kinds.get("images", "f32")
    if kind not in dtypes:
        raise ModelFileError(
            f"the model takes its images as {kind}, which OpenVINO cannot be given from Python: "
            "convert it again with inputs and outputs in float32"
        )
    return dtypes[kind]


def _in_numpy(values: NDArray[Any], kind: str) -> NDArray[np.generic]:
    """An output: OpenVINO hands out the bits of bf16 as if they were float16's."""
    if kind != "bf16":
        return values
    import numpy as np

    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _reason(error: RuntimeError) -> str:
    """What went wrong: lines that end in a colon tell where in OpenVINO's source it was noticed."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = [line for line in lines if line and line[-1] != ":" and line != NOT_CONVERTED]
    return told[0] if told else type(error).__name__


def _load() -> Any:
    LIBRARY.require()
    import openvino

    return openvino
