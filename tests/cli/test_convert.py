"""`dynexport convert` as a user meets it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made.command_line import ODD, Run, command_line, files_in, refused


def test_convert_takes_ratio_and_name_from_the_checkpoint(
    run: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    shutil.copy(tiny_checkpoint, tmp_path / "c.best.pth")
    ran = run("convert", "c.best.pth")
    assert ran.code == 0
    assert ran.errors == []
    assert sorted(os.listdir()) == [
        "c.best-0.7-0.49-0.343.onnx",
        "c.best-0.7-0.49-0.343.reference.npz",
        "c.best.pth",
    ]
    assert "at 0.7, 0.49, 0.343: 49 -> 34 -> 24 -> 16 tokens" in ran.out
    assert "verified with onnxruntime on 8 images, batch 1, 8, 9" in ran.out
    assert "next: dynexport bench c.best-0.7-0.49-0.343.onnx" in ran.out


@pytest.mark.exporter
def test_convert_prints_json_alone_and_writes_where_told(
    run: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copy(tiny_checkpoint, folder / "my checkpoint.pth")
    output = folder / "new folder" / "out é.onnx"
    images = folder / "pictures.npz"
    pictures = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    np.savez(images, images=pictures)
    ran = run(
        *("convert", folder / "my checkpoint.pth", "--ratios", "0.9,0.5,0.5", "--batch", "1:2:4"),
        *("--images", images, "--emit-kept", "--opset", 21, "-o", output, "--json", "--quiet"),
    )
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["onnx"] == str(output)
    assert ran.json["reference"] == str(output.with_name("out é.reference.npz"))
    assert ran.json["metadata"]["ratios"] == [0.9, 0.5, 0.5]
    assert ran.json["metadata"]["keep_counts"] == [44, 24, 24]
    assert ran.json["metadata"]["batch"] == "1:2:4"
    assert ran.json["verification"]["failures"] == []
    assert ran.json["verification"]["batch_sizes"] == [1, 2, 3]
    assert ran.json["size_bytes"] == output.stat().st_size
    assert sorted(os.listdir(output.parent)) == ["out é.onnx", "out é.reference.npz"]
    shown = run("inspect", output, "--json").json
    assert shown["opset"] == 21
    assert list(shown["outputs"]) == ["logits", "kept_0", "kept_1", "kept_2"]
    assert run("verify", output).code == 0


def test_convert_rounds_rows_up_and_verify_rebuilds_them(run: Run, tiny_checkpoint: Path) -> None:
    """The class token is a row too: 1 + 35, 1 + 27 and 1 + 19 are multiples of 4."""
    ran = run("convert", tiny_checkpoint, "--align", 4, "--batch", 3)
    assert (ran.code, ran.errors) == (0, [])
    name = "tiny-0.7-0.49-0.343-align4.onnx"
    assert sorted(os.listdir()) == [name, name.replace(".onnx", ".reference.npz")]
    assert "49 -> 35 -> 27 -> 19 tokens, rows in multiples of 4" in ran.out
    facts = run("inspect", name, "--json").json["dynexport"]
    assert (facts["align"], facts["keep_counts"]) == (4, [35, 27, 19])
    assert "  align                4\n" in run("inspect", name).out
    assert run("verify", name, "--checkpoint", tiny_checkpoint).code == 0


def test_convert_exports_the_dense_twin(run: Run, tiny_checkpoint: Path) -> None:
    ran = run("convert", tiny_checkpoint, "--dense", "--json")
    assert ran.code == 0
    assert sorted(os.listdir()) == ["tiny-dense.onnx", "tiny-dense.reference.npz"]
    assert ran.json["metadata"]["keep_counts"] == []
    assert ran.json["metadata"]["ratios"] is None
    assert ran.json["metadata"]["nodes"] == ran.json["metadata"]["nodes_dense"]
    assert ran.errors == []
    facts = run("inspect", "tiny-dense.onnx", "--json").json
    assert facts["dynexport"]["ratios"] is None
    assert "TopK" not in facts["operators"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--ratio", "0"), "keep ratio 0 is out of range: it must lie in (0, 1]"),
        (("--ratio", "1.5"), "keep ratio 1.5 is out of range"),
        (("--ratio", "nan"), "keep ratio nan is out of range"),
        (("--ratio", "-1"), "keep ratio -1 is out of range"),
        (("--ratio", "0.1"), "keep ratio 0.01 of stage 2 keeps none of 49 tokens"),
        (("--ratios", "0.9,0.8"), "2 keep ratios (0.9, 0.8) for a model with 3 pruning stages"),
        (("--ratios", "0.7,0.8,0.9"), "increase from 0.7 to 0.8"),
        (("--ratios", "high"), "keep ratios 'high' are not numbers"),
        (("--ratio", "0.7", "--ratios", "0.9,0.8,0.7"), "--ratio and --ratios were both given"),
        (("--align", "0"), "a multiple of 0: give a whole number, at least 1, as in --align 8"),
        (("--align", "-4"), "a multiple of -4: give a whole number"),
        (("--align", "50"), "a multiple of 50: the model has 49 tokens, so give 1 to 49"),
        (("--dense", "--align", "8"), "--dense drops nothing, so it takes no --ratio, --ratios or"),
        (("--batch", "many"), "batch 'many' is not valid: write one size, 8, or a range, 1:8:64"),
        (("--batch", "0"), "batch 0 is not valid: sizes are at least 1"),
        (("--batch", "8:1:64"), "batch 8:1:64 is not valid"),
        (("--opset", "16"), "opset 16 is not supported: choose from 17"),
        (("--opset", "99"), "opset 99 is not supported"),
        (("--model", "deit-z"), "unknown model 'deit-z': did you mean 'deit-"),
        (("--model", "deit-s"), "is no deit-s: its tensors are those of a custom deit"),
        (("--prune-at", "a,b"), "--prune-at 'a,b' is no list of numbers: write it as 3,6,9"),
        (("--prune-at", "1,2"), "2 pruning locations [1, 2] were given for 3 predictors"),
        (("--prune-at", "1,2,9"), "pruning locations [1, 2, 9] are not valid for 4 blocks"),
        (("--num-heads", "5"), "64 channels do not divide into 5 heads"),
        (("--weights", "model_ema"), "has no weights under 'model_ema': found model"),
        (("--images", "none"), "none does not exist: give a folder of images or an .npz"),
        (("--images", "."), "no images in .: expected files ending in"),
        (("-o", "."), "is a folder: name a file to write"),
        (("-o", ".."), ".. is a folder: name a file to write"),
    ],
    ids=command_line,
)
def test_convert_refuses_in_one_sentence_and_writes_nothing(
    run: Run,
    tmp_path: Path,
    tiny_checkpoint: Path,
    options: tuple[str, ...],
    problem: str,
) -> None:
    refused(run("convert", tiny_checkpoint, *options), problem)
    assert files_in(tmp_path) == {}


def test_convert_refuses_a_place_inside_a_file(
    run: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    ran = run("convert", tiny_checkpoint, "-o", "file/x.onnx", "--json")
    refused(ran, "cannot write file/x.onnx: ")
    assert "choose another place with -o" in ran.err
    assert files_in(tmp_path) == {"file": b"mine"}


def test_a_failed_convert_leaves_the_files_of_an_earlier_one(
    run: Run, exported: Path, tiny_checkpoint: Path
) -> None:
    before = files_in(exported.parent)
    refused(run("convert", tiny_checkpoint, "-o", exported, "--opset", "7"), "opset 7")
    assert files_in(exported.parent) == before


def test_a_failed_convert_leaves_no_new_folder(
    run: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    refused(run("convert", tiny_checkpoint, "-o", "new/x.onnx", "--opset", "7"), "opset 7")
    assert files_in(tmp_path) == {}


def test_convert_refuses_to_overwrite_its_checkpoint(
    run: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    shutil.copy(tiny_checkpoint, tmp_path / "c.pth")
    before = files_in(tmp_path)
    ran = run("convert", "c.pth", "-o", "./c.pth")
    assert files_in(tmp_path) == before
    refused(ran, "c.pth")


def test_convert_exits_with_1_where_the_proof_fails(
    run: Run, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    huge = torch.full((10, 64), 3e38)  # finite itself, its products are not
    path = checkpoint({"pruning_loc": [1, 2, 3], "base_rate": 0.7}, **{"head.weight": huge})
    refused(run("convert", path, "-o", "x.onnx"), "nothing was exported", code=1)
    assert list(files_in(tmp_path)) == ["c.pth"]


def test_convert_asks_for_a_ratio_where_none_was_recorded(
    run: Run, checkpoint: Callable[..., Path]
) -> None:
    ran = run("convert", checkpoint({"pruning_loc": [1, 2, 3]}))
    refused(ran, "does not say what keep ratio it was trained with: give one, as in --ratio 0.7")


@pytest.mark.parametrize("recorded", ["high", [0.7, 0.5]])
def test_convert_refuses_a_recorded_ratio_that_is_no_number(
    run: Run, checkpoint: Callable[..., Path], recorded: Any
) -> None:
    refused(run("convert", checkpoint({"pruning_loc": [1, 2, 3], "base_rate": recorded})), "ratio")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.pth", None, "none.pth does not exist: expected a checkpoint"),
        ("empty.pth", b"", "empty.pth is not a complete checkpoint"),
        ("text.pth", b"epoch,loss\n", "text.pth is not a complete checkpoint"),
        ("empty.safetensors", b"", "empty.safetensors is not a complete checkpoint"),
    ],
)
def test_convert_refuses_what_is_no_checkpoint(
    run: Run, tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = files_in(tmp_path)
    refused(run("convert", name, "--json"), problem)
    assert files_in(tmp_path) == before
