"""What a runtime is known to refuse, told before anything is exported for it."""

from __future__ import annotations

from dynexport.schedule import Selection

TENSORRT_TOP_K = 3840
"""Largest K of TensorRT's TopK layer."""


def top_k_warnings(selection: Selection, counts: tuple[int, ...], tokens: int) -> tuple[str, ...]:
    """A sentence for each stage whose top-k TensorRT will refuse, given what each keeps.

    A nested selection takes the rows it keeps; over a whole grid all rows are sorted, because the
    others take the fast path and everything is put back.
    """
    rows = [selection.leading + count if selection.nested else tokens for count in counts]
    return tuple(
        f"TensorRT will refuse stage {stage}: its top-k lists {asked} rows and TensorRT's limit is "
        f"{TENSORRT_TOP_K} (ONNX Runtime has none); "
        f"{'keep less of the image, or ' if selection.nested else ''}choose a smaller --img-size"
        for stage, asked in enumerate(rows, start=1)
        if asked > TENSORRT_TOP_K
    )
