"""The main job on real input: convert, verify, test, time and look at the trained MNIST model.

    python examples/mnist/demo.py            # writes to out/mnist

Converts mnist-deit.pth at its trained keep ratio, states the accuracy of PyTorch and of the ONNX
file on the 1,000 test digits, times sparse beside dense, does the same for the other precisions,
and draws what was dropped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

import dynexport

HERE = Path(__file__).parent
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-dynamic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/mnist"))
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    with np.load(HERE / "test.npz") as test:
        digits, labels = test["images"], test["labels"]

    console.print("converting examples/mnist/mnist-deit.pth")
    result = dynexport.convert(
        dynexport.Recipe(
            HERE / "mnist-deit.pth",
            batch="1:8:64",
            images=HERE / "test.npz",
            output=options.out / "mnist.onnx",
        )
    )
    console.print("verifying the file from its reference bundle")
    dynexport.verify_model(result.onnx).require_passed()
    console.print(f"testing on {len(digits)} digits never trained on")
    accuracies = measure_accuracies(result.onnx, options.out)
    console.print("timing sparse, dense and PyTorch in turn")
    timed = dynexport.bench_model(result.onnx)
    (only,) = timed.batches
    console.print("converting to other precisions, int8 calibrated on 512 training digits")
    precisions = [measure_precision(name, options.out) for name in PRECISIONS]
    picture = options.out / "dropped.png"
    draw_dropped(result.onnx, digits, labels, picture)

    facts = result.metadata
    table = Table(title=f"MNIST digits at ratio {facts.ratios[0]:g}" if facts.ratios else "")
    for column in ("", "accuracy", "MMACs", f"ms a batch of {only.batch}", "images/s"):
        table.add_column(column, justify="right" if column else "left")
    for timing in only.timings:
        macs = facts.macs_dense if timing.label.endswith("dense") else facts.macs_sparse
        table.add_row(
            timing.label,
            f"{accuracies[timing.label]:.1%}",
            f"{macs / 1e6:.1f}",
            f"{timing.total.p50:.2f}",
            f"{timing.images_per_second:.0f}",
        )
    console.print(table)
    errors = result.verification.errors["logits"]
    console.print(
        f"verified: ONNX differs from PyTorch by {errors.max_abs:.1e} on logits up to "
        f"{errors.scale:.3g}; speed-up over the dense twin "
        + (
            timed.unsettled.replace("`", "")
            or f"{timed.speedup:.2f} ± {timed.speedup_error:.2f} x of {timed.ideal:.2f} x ideal "
            f"({timed.efficiency:.0%} ± {timed.efficiency_error:.0%})"
        )
    )
    console.print(precision_table(precisions))
    console.print(f"wrote {result.onnx}\n      {result.reference}\n      {picture}")


def measure_precision(name: str, folder: Path) -> tuple[str, Any, int]:
    """Convert to a precision and run it on the test digits beside PyTorch: its name, what came
    out, and the size of the file in bytes."""
    result = dynexport.convert(
        dynexport.Recipe(
            HERE / "mnist-deit.pth",
            batch=50,
            precision=dynexport.Precision(name, calibration_data=HERE / "calibration.npz"),
            output=folder / f"mnist-{name}.onnx",
        )
    )
    verified = dynexport.verify_model(
        result.onnx, checkpoint=HERE / "mnist-deit.pth", data=HERE / "test.npz"
    )
    verified.require_passed()
    assert verified.accuracy is not None
    return name, verified.accuracy, result.size_bytes


def precision_table(rows: list[tuple[str, Any, int]]) -> Table:
    """A row a precision."""
    table = Table(title="precisions, on the 1,000 test digits")
    for column in ("", "accuracy", "same digit as PyTorch", "MB"):
        table.add_column(column, justify="right" if column else "left")
    for name, found, size in rows:
        table.add_row(name, f"{found.top1:.1%}", f"{found.agreement:.1%}", f"{size / 1e6:.2f}")
    return table


def measure_accuracies(onnx: str, folder: Path) -> dict[str, float]:
    """Share of digits named right, by the labels `bench_model` gives its candidates. The dense twin
    of the sparse file computes what the dense file does."""
    dense = dynexport.convert(
        dynexport.Recipe(
            HERE / "mnist-deit.pth", dense=True, batch=50, output=folder / "mnist-dense.onnx"
        )
    )
    accuracies = {}
    for kind, path in (("sparse", onnx), ("dense", dense.onnx)):
        found = dynexport.verify_model(
            path, checkpoint=HERE / "mnist-deit.pth", data=HERE / "test.npz"
        ).accuracy
        assert found is not None
        accuracies[f"onnxruntime {kind}"] = found.top1
        accuracies[f"pytorch {kind}"] = found.pytorch_top1
    return accuracies


def draw_dropped(
    onnx: str, digits: NDArray[np.uint8], labels: NDArray[np.int64], path: Path
) -> None:
    """A row a digit: the picture, each stage with the patches dropped so far in grey, its class."""
    shown = path.with_suffix("")
    shown.mkdir(parents=True, exist_ok=True)
    files = [shown / f"a {digit}.png" for digit in range(10)]
    for digit, file in enumerate(files):
        Image.fromarray(digits[int(np.flatnonzero(labels == digit)[0])]).save(file)
    dynexport.visualize_images(onnx, files, path, top=1)


if __name__ == "__main__":
    main()
