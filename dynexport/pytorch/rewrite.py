"""Training form to inference form, and the proof that nothing but rounding changed.

    training form ──► oracle ──────────────► inference form
    Gumbel masks      the same top-k masks    top-k gathers, algebra folded, no mask

The oracle is the dense training form with each sparsifier swapped for a deterministic top-k
mask. Each module that has an ``inference_form()`` is then swapped for it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynexport.compare.numbers import measure_errors, not_numbers
from dynexport.compare.selection import gap_at_cut
from dynexport.errors import ScheduleError, VerificationError
from dynexport.formats.metadata import ExportSpec
from dynexport.models import KeepAll, SparseModel
from dynexport.schedule import KeepSchedule, align_counts, format_ratios

TOLERANCE = 1e-4
"""Largest accepted difference between oracle and inference form, relative to the largest output
(but at least to one). float32 gives about 1e-5; a wrong fold gives 1e-2 and more."""


@dataclass(frozen=True)
class Proof:
    """Oracle against inference form on the same images.

    images          how many were compared
    max_abs_error   on the outputs, with the inference form's selection replayed in the oracle
    scale           the largest output of the oracle, by magnitude
    outputs         name -> shape for one image
    selection_gap   per stage, how far below the oracle's own cut the worst token kept scored;
                    0 where both choose the same set, a rounding error where they tie
    """

    images: int
    max_abs_error: float
    scale: float
    outputs: dict[str, tuple[int, ...]]
    selection_gap: tuple[float, ...]


def keep_counts(model: SparseModel, keep: KeepSchedule) -> tuple[int, ...]:
    """Tokens kept after each stage of this model, rounded as the schedule says.

    ScheduleError if the stages differ.
    """
    stages = len(model.config.prune_at)
    if len(keep.ratios) != stages:
        raise ScheduleError(
            f"{len(keep.ratios)} keep ratios ({format_ratios(keep.ratios)}) for a model with "
            f"{stages} pruning stages: give {stages}"
        )
    counts = model.keep_counts(keep)
    return align_counts(counts, model.config.num_tokens, model.selection, keep.align)


def oracle(
    model: SparseModel, keep: KeepSchedule | None, replay: tuple[Tensor, ...] | None = None
) -> SparseModel:
    """The dense masked form: the same top-k, as a mask over tokens that are all still computed.

    ``replay`` holds, per stage, grid positions (B, K) to keep in place of its own choice; a
    ``keep`` of None drops nothing. Weights are shared with ``model``, modules are not.
    """
    weights = (*model.parameters(), *model.buffers())
    masked = copy.deepcopy(model, {id(tensor): tensor for tensor in weights}).eval()
    stages = masked.get_submodule(masked.sparsifiers)
    assert isinstance(stages, nn.ModuleList)
    if keep is None:
        for stage in range(len(stages)):
            stages[stage] = KeepAll()
        return masked
    counts = keep_counts(model, keep)
    ranked = masked.selection.ranked(counts, masked.config.num_tokens)
    for stage in range(len(stages)):
        sparsifier: Any = stages[stage]
        chosen = sparsifier.top_k(counts[stage], ranked[stage])
        chosen.replay = None if replay is None else replay[stage]
        stages[stage] = chosen
    return masked


def rewrite(model: SparseModel, keep: KeepSchedule | None) -> SparseModel:
    """A copy of a training form in inference form, keeping ``keep``; None drops nothing."""
    inference = oracle(copy.deepcopy(model), keep)
    for name, _ in reversed(list(inference.named_modules())):  # inner modules before outer ones
        module: Any = inference.get_submodule(name)
        if not hasattr(module, "inference_form"):
            continue
        if name:
            inference.set_submodule(name, module.inference_form())
        else:
            inference = module.inference_form()
    return inference.requires_grad_(False)


def schedule_of(spec: ExportSpec) -> KeepSchedule | None:
    """The schedule that an ONNX file was exported with; None of a dense one."""
    return None if spec.ratios is None else KeepSchedule(spec.ratios, spec.align)


def takes_replay(inference: SparseModel) -> bool:
    """Whether every sparsifier of an inference form takes a choice made elsewhere."""
    stages: Any = inference.get_submodule(inference.sparsifiers)
    return all(hasattr(stage, "replay") for stage in stages)


def with_replay(inference: SparseModel, kept: tuple[Tensor, ...]) -> SparseModel:
    """A copy of an inference form that keeps the positions given in place of its own choice.

    Positions are (B, K), per stage. Weights are shared, modules are not.
    """
    weights = (*inference.parameters(), *inference.buffers())
    told = copy.deepcopy(inference, {id(tensor): tensor for tensor in weights})
    stages: Any = told.get_submodule(told.sparsifiers)
    for stage, positions in zip(stages, kept, strict=True):
        stage.replay = positions
    return told


@torch.inference_mode()
def prove(
    model: SparseModel,
    inference: SparseModel,
    keep: KeepSchedule | None,
    images: Tensor | NDArray[np.float32],
) -> Proof:
    """Compare the two forms on ``images`` (B, C, H, W); VerificationError if they differ.

    The inference form chooses and the oracle replays that choice, so that outputs are compared
    for numeric error alone; whether the oracle would have chosen the same is judged apart.
    """
    images = torch.as_tensor(images)
    ours = inference(images)
    theirs = oracle(model, keep, replay=ours.tokens.kept if keep else None)(images)
    pairs = {n: (theirs.outputs[n].numpy(), found.numpy()) for n, found in ours.outputs.items()}
    for name, (expected, found) in pairs.items():
        _require_numbers(f"{name} of the training form", expected)
        _require_numbers(f"{name} of the rewritten model", found)
    errors = [measure_errors(*pair) for pair in pairs.values()]
    stages = zip(theirs.tokens.scores, ours.tokens.kept, strict=True)
    proof = Proof(
        images=len(images),
        max_abs_error=max(error.max_abs for error in errors),
        scale=max(error.scale for error in errors),
        outputs={name: tuple(value.shape[1:]) for name, value in ours.outputs.items()},
        selection_gap=tuple(gap_at_cut(scores.numpy(), kept.numpy()) for scores, kept in stages),
    )
    _require_proved(proof)
    return proof


def _require_numbers(what: str, values: NDArray[np.float32]) -> None:
    """VerificationError where there is nothing to compare with."""
    for problem in not_numbers(what, values):
        raise VerificationError(f"{problem}: nothing was exported")


def _require_proved(proof: Proof) -> None:
    """VerificationError where more than rounding changed."""
    error, scale = proof.max_abs_error, proof.scale
    if not error <= TOLERANCE * max(1.0, scale):
        raise VerificationError(
            f"the rewritten model differs from its training form by {error:.3g} on outputs up to "
            f"{scale:.3g}, more than {TOLERANCE:g} of that: nothing was exported"
        )
    for stage, gap in enumerate(proof.selection_gap, start=1):
        if not gap <= TOLERANCE:
            raise VerificationError(
                f"stage {stage} of the rewritten model kept a token whose log-probability lies "
                f"{gap:.3g} below the training form's cut, more than rounding explains "
                f"({TOLERANCE:g}): nothing was exported"
            )
