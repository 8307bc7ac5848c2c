"""Published variants with random weights: timings need no others."""

from __future__ import annotations

import torch

import dynexport
from dynexport.models import SparseModel


def random_model(name: str) -> SparseModel:
    """A published variant whose every tensor is random, on the scale of a trained one's."""
    torch.manual_seed(0)
    model = dynexport.create(name).eval()
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            if tensor.ndim > 1:
                tensor.normal_(0.0, 1.2 / tensor[0].numel() ** 0.5)
            elif "gamma" in tensor_name:
                tensor.uniform_(0.2, 0.8)
            else:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model
