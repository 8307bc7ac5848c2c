"""Verification that understands top-k: an ONNX file or an engine against PyTorch.

A top-k is discontinuous. Where a candidate keeps another token than PyTorch did, its outputs
differ, and no tolerance tells a rounding tie from a fault. So four things are judged apart:

- numbers: under one and the same choice, replayed, outputs are compared tightly;
- the selection: every token swapped must have scored within the margin of rounding of the cut, in
  PyTorch's own scores; then it is a tie, and anything else is a fault;
- what a user gets, each with its own choice: classes, cosine, divergence;
- accuracy, where there are labelled images.

A comparison that compared nothing has not passed.
"""

from dynexport.verify.comparing import compare, open_data, verify
from dynexport.verify.original import Original
from dynexport.verify.outcome import Verification
from dynexport.verify.tolerances import Tolerances, choose_tolerances

__all__ = [
    "Original",
    "Tolerances",
    "Verification",
    "choose_tolerances",
    "compare",
    "open_data",
    "verify",
]
