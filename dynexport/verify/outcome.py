"""What verification found."""

from __future__ import annotations

from dataclasses import dataclass

from dynexport.compare.expected import Fit
from dynexport.compare.numbers import Agreement, Errors
from dynexport.compare.tolerances import Tolerances
from dynexport.errors import VerificationError
from dynexport.verify.accuracy import Accuracy
from dynexport.verify.bisect import Bisection
from dynexport.verify.own import Repetition


@dataclass(frozen=True)
class StageOverlap:
    """Kept sets of one pruning stage, over all images.

    overlap       mean share of kept tokens both chose, from the same tokens
    free_overlap  the same where each went on with its own choice at the stages before
    ties, faults  tokens swapped inside and outside the margin of rounding
    misranked     choices that are not the best of the candidate's own scores
    inversion     see `dynexport.compare.selection.StageChoice`
    """

    overlap: float
    free_overlap: float
    ties: int
    faults: int
    misranked: int
    inversion: float


@dataclass(frozen=True)
class Verification:
    """The outcome; ``failures`` says why where it did not pass.

    images       images that kept PyTorch's tokens at every stage and batch size and are compared
                 as they are, of ``images_run``; the others with a choice replayed
    replayed_in  "pytorch", the candidate's choice; "candidate", PyTorch's; "" where none was
    batch_sizes  batch sizes that were run: the optimal on all images, others on two batches
    errors       under one choice, by the output's name
    agreement    each with its own choice, by the output's name; None where shapes differ
                 or a number is missing
    stages       the selection
    tolerances   that were in force
    accuracy     on images of the user's, where given
    bisection    where the candidate departs, where asked for
    own          the file beside its own answers, where the bundle holds them
    expected     the file beside what the user's own model answered, where that was told
    """

    model: str
    reference: str
    backend: str
    precision: str
    images: int
    images_run: int
    replayed_in: str
    batch_sizes: tuple[int, ...]
    errors: dict[str, Errors]
    agreement: dict[str, Agreement | None]
    stages: tuple[StageOverlap, ...]
    tolerances: Tolerances
    accuracy: Accuracy | None
    bisection: Bisection | None
    passed: bool
    failures: tuple[str, ...]
    own: Repetition | None = None
    expected: Fit | None = None

    def require_passed(self) -> None:
        """VerificationError that says what failed, if anything did."""
        if not self.passed:
            raise VerificationError(f"{self.model} failed verification: {'; '.join(self.failures)}")
