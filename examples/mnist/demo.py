"""The main job on real input: convert, verify, test, time and look at the trained MNIST model.

    python examples/mnist/demo.py            # writes to out/mnist

Converts mnist-deit.pth at its trained keep ratio, states the accuracy of PyTorch and of the ONNX
file on the 1,000 test digits, times sparse beside dense, does the same for the other precisions,
and draws what was dropped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import dynexport
from dynexport.artifact import find_artifact
from dynexport.bench.timing import Plan
from dynexport.formats.metadata import Metadata
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.twin import dense_twin
from dynexport.pytorch.checkpoint import build_model, identify, load_checkpoint
from dynexport.pytorch.rewrite import rewrite
from dynexport.runtimes import open_runner
from dynexport.verify.accuracy import Accuracy
from dynexport.visualize import draw_strips, look_at

HERE = Path(__file__).parent
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-dynamic")
Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/mnist"))
    parser.add_argument("--rounds", type=int, default=10, help="benchmark rounds")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    with np.load(HERE / "test.npz") as test:
        digits, labels = test["images"], test["labels"]

    console.print("converting examples/mnist/mnist-deit.pth")
    result = dynexport.convert(
        HERE / "mnist-deit.pth",
        batch="1:8:64",
        images=HERE / "test.npz",
        output=options.out / "mnist.onnx",
    )
    console.print("verifying the file from its reference bundle")
    dynexport.verify_model(result.onnx).require_passed()
    console.print(f"testing on {len(digits)} digits never trained on")
    accuracies = measure_accuracies(result.onnx, result.metadata, digits, labels)
    console.print("timing sparse, dense and PyTorch in turn")
    timed = dynexport.bench_model(result.onnx, plan=Plan(rounds=options.rounds))
    (only,) = timed.batches
    console.print("converting to other precisions, int8 calibrated on 512 training digits")
    precisions = [measure_precision(name, options.out) for name in PRECISIONS]
    picture = options.out / "dropped.png"
    draw_dropped(result.onnx, result.metadata, digits, labels, picture)

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
        f"{errors.scale:.3g}; speed-up over the dense twin {timed.speedup:.2f} x of "
        f"{timed.ideal:.2f} x ideal ({timed.efficiency:.0%})"
    )
    console.print(precision_table(precisions))
    console.print(f"wrote {result.onnx}\n      {result.reference}\n      {picture}")


def measure_precision(name: str, folder: Path) -> tuple[str, Accuracy, int]:
    """Convert to a precision and run it on the test digits beside PyTorch: its name, what came
    out, and the size of the file in bytes."""
    result = dynexport.convert(
        HERE / "mnist-deit.pth",
        batch=50,
        precision=dynexport.Precision(name, calibration_data=HERE / "calibration.npz"),
        output=folder / f"mnist-{name}.onnx",
    )
    verified = dynexport.verify_model(
        result.onnx, checkpoint=HERE / "mnist-deit.pth", data=HERE / "test.npz"
    )
    verified.require_passed()
    assert verified.accuracy is not None
    return name, verified.accuracy, result.size_bytes


def precision_table(rows: list[tuple[str, Accuracy, int]]) -> Table:
    """A row a precision."""
    table = Table(title="precisions, on the 1,000 test digits")
    for column in ("", "accuracy", "same digit as PyTorch", "MB"):
        table.add_column(column, justify="right" if column else "left")
    for name, found, size in rows:
        table.add_row(name, f"{found.top1:.1%}", f"{found.agreement:.1%}", f"{size / 1e6:.2f}")
    return table


def measure_accuracies(
    onnx: str, facts: Metadata, digits: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Share of digits named right, by the labels `bench_model` gives its candidates."""
    loaded = load_checkpoint(HERE / "mnist-deit.pth")
    trained = build_model(loaded, *identify(loaded))
    assert facts.ratios is not None
    forms = {
        "pytorch sparse": rewrite(trained, dynexport.KeepSchedule(facts.ratios)),
        "pytorch dense": rewrite(trained, None),
    }
    graphs = {
        "onnxruntime sparse": Path(onnx).read_bytes(),
        "onnxruntime dense": to_bytes(dense_twin(read_model(onnx), facts.dense_twin)),
    }
    images = facts.preprocessing.normalise(digits)
    accuracies = {}
    for label, content in graphs.items():
        with open_runner("onnxruntime", content) as runner:
            accuracies[label] = accuracy(lambda x, r=runner: r.run(x)["logits"], images, labels)
    with torch.inference_mode():
        for label, form in forms.items():
            accuracies[label] = accuracy(
                lambda x, f=form: f(torch.from_numpy(x)).logits.numpy(), images, labels
            )
    return accuracies


def accuracy(logits: Logits, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of images whose best class is their label, in batches of 50."""
    starts = range(0, len(images), 50)
    best = [logits(images[start : start + 50]).argmax(axis=1) for start in starts]
    return float((np.concatenate(best) == labels).mean())


def draw_dropped(
    onnx: str, facts: Metadata, digits: NDArray[np.uint8], labels: NDArray[np.int64], path: Path
) -> None:
    """A row a digit: the picture, each stage with the patches dropped so far in grey, its class."""
    shown = digits[[int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]]
    names = [f"a {digit}" for digit in range(10)]
    views = look_at(find_artifact(Path(onnx)), shown, names=names, top=1)
    draw_strips(views, facts, title=Path(onnx).name, tile=84).save(path)


if __name__ == "__main__":
    main()
