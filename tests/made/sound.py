"""Sound models, one a seed, at which verification has to stay silent.

`cd tests && python -m made.sound --seeds 100` counts false alarms in every precision, which takes
some minutes; the tests run a few of the seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx_ir as ir

from dynexport.images import synthetic_images
from dynexport.verify import Verification, verify_model
from made.tiny import (
    Tiny,
    answers_for,
    build,
    convert_tiny,
    refill,
    remember,
    typed,
    write,
)

RATIOS = {
    "deit": (0.7, 0.49, 0.343),
    "lvvit": (0.7, 0.49, 0.343),
    "swin": (0.7, 0.5, 0.3),
    "convnext": (0.7, 0.5, 0.3),
}
"""Families that take turns, and keep ratios, as published."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-dynamic")

BATCH = "1:3:5"


def sound_model(converted: Tiny, family: str, seed: int) -> Tiny:
    """A family's model with weights and images of this seed."""
    tiny = refill(converted, build(family, seed=10_000 + seed))
    size = tiny.metadata.preprocessing.img_size
    return answers_for(tiny, synthetic_images(8, size, seed=seed))


def verify_sound(
    tiny: Tiny, precision: str, folder: Path, backend: str | None = None
) -> Verification:
    """What verification says of it in a precision, int8 held to its own answers."""
    graph: ir.Model = typed(tiny, precision)
    bundle = remember(tiny, graph) if precision.startswith("int8") else tiny.bundle
    return verify_model(write(folder, graph, bundle), backend=backend)


def main() -> None:
    """Count them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--precision", nargs="*", default=PRECISIONS)
    parser.add_argument("--backend")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        converted = {f: convert_tiny(folder, f, RATIOS[f], batch=BATCH) for f in RATIOS}
        for precision in asked.precision:
            results = []
            for seed in range(asked.seeds):
                family = list(RATIOS)[seed % len(RATIOS)]
                tiny = sound_model(converted[family], family, seed)
                result = verify_sound(tiny, precision, folder, asked.backend)
                results.append(result)
                if not result.passed:
                    print(f"{family} {seed} {precision}: {'; '.join(result.failures)}", flush=True)
            _tell(precision, results)


def _tell(precision: str, results: list[Verification]) -> None:
    """How many were accused, and how far the worst went."""
    alarms = sum(not result.passed for result in results)
    worst = {
        "error": max(r.errors["logits"].held_to(r.tolerances)[0] for r in results),
        "inversion": max(stage.inversion for r in results for stage in r.stages),
    }
    own = [r.own.errors["logits"].l2 for r in results if r.own is not None]
    free = [r.agreement["logits"] for r in results]
    worst |= {"beside its own": max(own)} if own else {}
    told = "; ".join(f"{name} {value:.2g}" for name, value in worst.items())
    mean = min(agreement.mean_cosine for agreement in free if agreement is not None)
    least = min(agreement.cosine for agreement in free if agreement is not None)
    print(
        f"{precision}: {alarms} of {len(results)} accused; worst: {told}; cosine running freely "
        f"{mean:.3f} in the mean, {least:.3f} at worst",
        flush=True,
    )


if __name__ == "__main__":
    main()
