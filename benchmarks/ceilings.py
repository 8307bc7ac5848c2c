"""What this machine can do at most: one product of 2048 x 2048 x 2048, in the forms models use.

The products are candidates among the others, in the same rounds; the ceiling of a precision is
the fastest of its products, whichever runtime it ran in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from rounds import Failed, Measured

from dynexport.bench.stopwatch import Candidate
from dynexport.formats.onnx_file import to_bytes
from dynexport.graph.quantise import quantise
from dynexport.runtimes import Runner, open_runner

SIDE = 2048

CEILING_OF: Mapping[str, str] = MappingProxyType(
    {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16", "int8": "int8", "int8-dynamic": "int8"}
)
"""By precision of a model, the product it is measured by: no CPU runtime here has one in fp16."""

PRODUCTS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "fp32": ("onnxruntime", "openvino"),
        "bf16": ("openvino-bf16",),
        "int8": ("onnxruntime", "openvino"),
    }
)
"""By precision, the backends that multiply in it."""


@dataclass(frozen=True)
class Ceiling:
    """The fastest product of a precision, the backend it ran in, and what the others reached.

    gflops  billions of operations a second at the middle run, two a multiply-accumulate
    """

    backend: str
    gflops: float
    times: Measured
    by_runtime: dict[str, float]


class ProductRunner:
    """A product that multiplies what it was opened with, whatever it is given."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._x = np.random.default_rng(1).standard_normal((SIDE, SIDE)).astype(np.float32)

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]:
        """The product; ``images`` are left alone."""
        return self._runner.run(self._x)

    def __enter__(self) -> ProductRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.__exit__(None, None, None)


@dataclass(frozen=True)
class Product:
    """A product's ONNX file in a runtime."""

    path: str
    runtime: str

    def open(self, threads: int | None = None, profile: bool = False) -> ProductRunner:
        """See `dynexport.bench.stopwatch.Openable`."""
        return ProductRunner(open_runner(self.runtime, self.path, threads))


def product_candidates(
    precisions: Sequence[str], folder: Path, threads: int | None, backends: Sequence[str] = ()
) -> dict[tuple[str, str], Candidate]:
    """By precision and backend, the products that bound these precisions of a model."""
    files = write_products(folder)
    wanted = dict.fromkeys(CEILING_OF[precision] for precision in ("fp32", *precisions))
    return {
        (kind, backend): Candidate(
            f"product {kind} {backend}", Product(str(files[kind]), backend), threads
        )
        for kind in wanted
        for backend in PRODUCTS[kind]
        if not backends or backend in backends
    }


def find_ceilings(
    products: Mapping[tuple[str, str], Measured | Failed],
) -> dict[str, Ceiling]:
    """By precision the fastest product; none for a precision in which no product ran."""
    found: dict[str, Ceiling] = {}
    for kind in PRODUCTS:
        ran = {
            backend: times
            for (of, backend), times in products.items()
            if of == kind and isinstance(times, Measured)
        }
        if ran:
            best = min(ran, key=lambda backend: ran[backend].p50)
            rates = {backend: 2 * SIDE**3 / (times.p50 * 1e6) for backend, times in ran.items()}
            found[kind] = Ceiling(best, rates[best], ran[best], rates)
    return found


def write_products(folder: Path) -> dict[str, Path]:
    """A file a form: float32, which bf16 runs too, and int8."""
    weights = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    shape = [SIDE, SIDE]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["images", "weights"], ["y"], name="y")],
        "product",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    model: Any = ir.serde.deserialize_model(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    )
    plain, int8 = folder / "product-fp32.onnx", folder / "product-int8.onnx"
    plain.write_bytes(to_bytes(model))
    int8.write_bytes(to_bytes(quantise(model, {"y": 4.0})))
    return {"fp32": plain, "bf16": plain, "int8": int8}
