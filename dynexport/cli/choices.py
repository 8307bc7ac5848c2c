"""Names that a shell completes: told again here, so that a press of TAB imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable

MODELS = (
    *("deit-256", "deit-s", "deit-b", "lvvit-s", "lvvit-m"),
    *("swin-t", "swin-s", "swin-b", "convnext-t", "convnext-s", "convnext-b"),
)
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-dynamic")
IO_PRECISIONS = ("fp32", "half")
METHODS = ("min-max", "percentile", "entropy", "mse")
TASKS = ("classify", "features")
WEIGHTS = ("model", "model_ema")
TARGETS = ("any", "tensorrt")
FALLBACKS = ("auto",)
BUILDERS = ("tensorrt", "tensorrt-rtx", "auto")
BACKENDS = (
    *("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"),
    *("openvino", "openvino-bf16"),
)


def complete(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What one of these names may go on with."""

    def find(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return find


def complete_list(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What a list of these names, with commas between, may go on with."""

    def find(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [
            f"{before}{comma}{name}"
            for name in names
            if name.startswith(last) and name not in given
        ]

    return find
