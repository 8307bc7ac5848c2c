"""The reference bundle: what PyTorch answered, kept in a file, so that `verify` needs no PyTorch.

An .npz beside the ONNX file: images, PyTorch's outputs, and per pruning stage the positions it
kept and the scores it ranked. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import ModelFileError
from dynexport.files import existing_file
from dynexport.files.kinds import BUNDLE, other_kind
from dynexport.formats.metadata import Batch, ExportSpec, Metadata
from dynexport.images import DAMAGED_NPZ, Preprocessing

FORMAT = 2

REFERENCE_IMAGES = 8
"""How many images a bundle holds, unless there are fewer."""

OUTPUT = "output:"
"""In front of an output's name in the file."""


OWN = "own_"
"""In front of the names of what the file itself answered."""


@dataclass(frozen=True)
class OwnAnswers:
    """What a typed file answered to the same images when it was made, in ONNX Runtime.

    outputs, kept, scores  as those of the bundle
    precision              `digest_of` what its metadata say of how it was typed, and of its batch
    """

    outputs: dict[str, NDArray[np.float32]]
    kept: tuple[NDArray[np.int64], ...]
    scores: tuple[NDArray[np.float32], ...]
    precision: str

    @staticmethod
    def digest_of(metadata: Metadata) -> str:
        """What tells a file typed in one way from one typed in another.

        Or made for another batch: int8-dynamic rounds by what is in one.
        """
        batch = Batch.parse(metadata.batch).optimal
        said = json.dumps([metadata.precision, batch], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ReferenceBundle:
    """PyTorch's answers for P images.

    images    uint8 (P, H, W, C) cropped to the input size, or float32 (P, C, H, W) normalised
    outputs   by name, float32: logits (P, classes), or feat_0 ... (P, C, H, W)
    kept      per stage int64 (P, K), positions, ascending; none for a dense model
    scores    per stage float32 (P, positions), -inf where a stage did not rank a token
    made_for  what it belongs to: checkpoint, weights, ratios
    own       the answers of the file it was written with; None where that is not typed so coarsely
              that they say more than PyTorch's
    """

    images: NDArray[Any]
    outputs: dict[str, NDArray[np.float32]]
    kept: tuple[NDArray[np.int64], ...]
    scores: tuple[NDArray[np.float32], ...]
    made_for: dict[str, Any]
    own: OwnAnswers | None = None

    @staticmethod
    def identity(spec: ExportSpec) -> dict[str, Any]:
        """What must agree between a bundle and an ONNX file."""
        ratios = None if spec.ratios is None else list(spec.ratios)
        return {
            "checkpoint_sha256": spec.checkpoint_sha256,
            "weights": spec.weights,
            "ratios": ratios,
        }

    @staticmethod
    def path_beside(onnx: Path) -> Path:
        """``NAME.onnx`` to ``NAME.reference.npz``."""
        return onnx.with_suffix(".reference.npz")

    def inputs(self, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """The model's input for every image, float32 (P, C, H, W)."""
        return preprocessing.to_input(self.images)

    def of_file(self, metadata: Metadata) -> ReferenceBundle | None:
        """The answers of the file described in place of PyTorch's; None where there are none."""
        own = self.own
        if own is None or own.precision != OwnAnswers.digest_of(metadata):
            return None
        return replace(self, outputs=own.outputs, kept=own.kept, scores=own.scores, own=None)

    def save(self, path: Path) -> None:
        """Write the .npz; the same answers give the same bytes."""
        arrays: dict[str, NDArray[Any]] = {"images": self.images, **_to_arrays(self)}
        said = {"format": FORMAT, **self.made_for}
        if self.own is not None:
            arrays |= {OWN + name: values for name, values in _to_arrays(self.own).items()}
            said["own"] = self.own.precision
        facts = json.dumps(said, sort_keys=True)
        arrays["facts"] = np.frombuffer(facts.encode(), dtype=np.uint8)
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> ReferenceBundle:
        """Read a bundle; ModelFileError if the file is none or is damaged."""
        path = existing_file(
            path, "a reference bundle; give one with `reference`, or ask PyTorch with `checkpoint`"
        )
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(arrays["facts"].tobytes().decode())
            if facts.pop("format") != FORMAT:
                raise ValueError("format")
            made_by = facts.pop("own", None)
            _require_types(arrays, path)
            return cls(
                images=arrays["images"],
                **_from_arrays(arrays, ""),
                made_for=facts,
                own=made_by and OwnAnswers(**_from_arrays(arrays, OWN), precision=made_by),
            )
        except DAMAGED_NPZ:
            other = other_kind(path, BUNDLE)
            raise ModelFileError(other) if other else _incomplete(path) from None

    def require_made_for(self, metadata: Metadata, path: Path, model: Path) -> None:
        """ModelFileError unless this bundle answers, in full, for the model described."""
        expected = self.identity(metadata)
        for key, value in expected.items():
            if self.made_for.get(key) != value:
                raise ModelFileError(
                    f"{path} was recorded for {key} {self.made_for.get(key)}, but {model} has "
                    f"{value}: give the bundle that was written with it"
                )
        own = self.of_file(metadata)
        if self._complete(metadata) and (own is None or own._complete(metadata)):
            return
        recorded = tuple(kept.shape[-1] for kept in self.kept if kept.ndim == 2)
        same_stages = len(recorded) == len(metadata.keep_counts)
        changed = same_stages and recorded != metadata.keep_counts
        if changed and self._complete(replace(metadata, keep_counts=recorded)):
            raise ModelFileError(
                f"{model} says that its stages keep {_listed(metadata.keep_counts)} tokens, and "
                f"PyTorch kept {_listed(recorded)} at the same ratios, as {path} has it: another "
                "tool changed the counts; convert the checkpoint again"
            )
        raise _incomplete(path)

    def _complete(self, metadata: Metadata) -> bool:
        """Whether every array is there, of its type and shape, and every position on the grid."""
        count, stages = len(self.images), len(metadata.keep_counts)
        positions = metadata.selection.positions(metadata.num_tokens, stages)
        size, channels = metadata.preprocessing.img_size, metadata.config.get("in_chans")
        raw = self.images.dtype == np.uint8
        shape = (count, *size, channels) if raw else (count, channels, *size)
        outputs = {name: values.shape for name, values in self.outputs.items()}
        kept = [(count, kept) for kept in metadata.keep_counts]
        return (
            count > 0
            and (raw or self.images.dtype == np.float32)
            and self.images.shape == shape
            and outputs == {name: (count, *one) for name, one in metadata.outputs.items()}
            and [array.shape for array in self.kept] == kept
            and [array.shape for array in self.scores] == [(count, positions)] * stages
            and all(((a >= 0) & (a < positions)).all() and a.dtype == np.int64 for a in self.kept)
            and all((np.diff(a, axis=1) > 0).all() for a in self.kept)
            and self._follows(metadata)
        )

    def _follows(self, metadata: Metadata) -> bool:
        """Whether each stage ranked what the one before left, or all, and kept the best of it."""
        selection, tokens = metadata.selection, metadata.num_tokens
        left: NDArray[Any] = np.arange(tokens)[None]
        for stage, (kept, scores) in enumerate(zip(self.kept, self.scores, strict=True)):
            if not _chosen_from(left, kept, scores):
                return False
            if not selection.nested:
                continue
            appended = np.array(selection.appended_by(stage, tokens), dtype=np.int64)
            behind = np.broadcast_to(appended, (len(kept), len(appended)))
            left = np.concatenate([kept, behind], axis=1)
        return True


def _to_arrays(answers: ReferenceBundle | OwnAnswers) -> dict[str, NDArray[Any]]:
    """Answers by their names in the file."""
    arrays: dict[str, NDArray[Any]] = {OUTPUT + n: values for n, values in answers.outputs.items()}
    for stage, (kept, scores) in enumerate(zip(answers.kept, answers.scores, strict=True)):
        arrays[f"kept_{stage}"], arrays[f"scores_{stage}"] = kept, scores
    return arrays


def _from_arrays(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Any]:
    """What `_to_arrays` gave, whose names begin so in the file."""
    stages = range(sum(name.startswith(f"{prefix}kept_") for name in arrays))
    outputs = [name for name in arrays if name.startswith(prefix + OUTPUT)]
    return {
        "outputs": {name.removeprefix(prefix + OUTPUT): arrays[name] for name in outputs},
        "kept": tuple(arrays[f"{prefix}kept_{stage}"] for stage in stages),
        "scores": tuple(arrays[f"{prefix}scores_{stage}"] for stage in stages),
    }


TYPES: Mapping[str, tuple[str, ...]] = {
    "images": ("uint8", "float32"),
    OUTPUT: ("float32",),
    "kept_": ("int64",),
    "scores_": ("float32",),
}
"""What arrays are of, by how their names begin."""


def _require_types(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """ModelFileError names the first array that is of another type than `save` writes, or empty."""
    for name, array in arrays.items():
        begins = (start for start in TYPES if name.removeprefix(OWN).startswith(start))
        expected = TYPES.get(next(begins, ""), (str(array.dtype),))
        if str(array.dtype) not in expected:
            found = f"is of {array.dtype}, expected {' or '.join(expected)}"
        elif array.size == 0:
            found = f"is empty, of shape {list(array.shape)}"
        else:
            continue
        raise ModelFileError(
            f"{path}: {name!r} {found}: another tool changed the bundle; convert the checkpoint "
            "again, or give another with `reference`"
        )


def _chosen_from(
    left: NDArray[np.int64], kept: NDArray[np.int64], scores: NDArray[np.float32]
) -> bool:
    """Whether scores (P, positions) are of the tokens ``left``, (P, N) or (1, N), and of no others.

    Those kept, (P, K), have to be the best of them, but for rounding: a runtime may compute a score
    that it shows anew.
    """
    ranked, taken = np.zeros(scores.shape, dtype=bool), np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(ranked, np.broadcast_to(left, (len(kept), left.shape[1])), True, axis=1)
    np.put_along_axis(taken, kept, True, axis=1)
    worst = np.where(taken, scores, np.inf).min(axis=1)
    others = np.where(ranked & ~taken, scores, -np.inf).max(axis=1)
    room = 1e-5 * np.where(np.isfinite(scores), np.abs(scores), 0.0).max(axis=1)
    return bool(((scores != -np.inf) == ranked).all() and not (worst < others - room).any())


def _listed(counts: tuple[int, ...]) -> str:
    return ", ".join(map(str, counts))


def _incomplete(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path} is not a complete reference bundle: convert the checkpoint again, or give "
        "another with `reference`"
    )
