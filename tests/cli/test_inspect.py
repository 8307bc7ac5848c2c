"""`dynexport inspect`, and `models`, as a user meets them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made.command_line import Run, foreign_onnx, refused

from dynexport.cli.inspect import show_facts
from dynexport.cli.models import show_models
from dynexport.cli.options import as_options
from dynexport.precision import PrecisionReport


def test_inspect_tells_what_a_checkpoint_is(run: Run, tiny_checkpoint: Path) -> None:
    facts = run("inspect", tiny_checkpoint, "--json").json
    assert (facts["kind"], facts["family"], facts["weights"]) == ("checkpoint", "deit", "model")
    assert facts["tensors"] == 86
    assert facts["config"]["prune_at"] == [1, 2, 3]
    assert facts["args"]["pruning_loc"] == [1, 2, 3]
    shown = run("inspect", tiny_checkpoint, "-q")
    assert (shown.code, shown.err) == (0, "")
    assert "family                 deit\n" in shown.out
    assert "  pruning_loc          1, 2, 3\n" in shown.out


def test_inspect_tells_what_is_undecided_in_a_checkpoint(
    run: Run, checkpoint: Callable[..., Path]
) -> None:
    ran = run("inspect", checkpoint({}), "--json")
    assert ran.code == 0
    assert ran.json["family"] is None
    assert ran.json["undecided"].endswith("say it, as in --prune-at 1,2,3")


def test_inspect_tells_what_an_onnx_file_is(run: Run, exported: Path) -> None:
    facts = run("inspect", exported, "--json").json
    assert (facts["kind"], facts["opset"]) == ("onnx", 20)
    assert facts["operators"]["TopK"] == 3
    assert facts["nodes"] == sum(facts["operators"].values())
    assert facts["inputs"]["images"][1:] == [3, 28, 28]
    assert facts["dynexport"]["keep_counts"] == [34, 24, 16]
    shown = run("inspect", exported, "-q")
    assert (shown.code, shown.err) == (0, "")
    assert str(exported) in shown.out
    assert "  keep_counts          34, 24, 16\n" in shown.out


def test_inspect_prints_for_people(run: Run, exported: Path) -> None:
    """What is empty is left out, in words are what only a program reads."""
    facts = run("inspect", exported, "--json").json
    assert facts["dynexport"]["precision"]["int8"] is None
    in_file, standard = facts["nodes"], facts["dynexport"]["nodes"]
    assert in_file != standard
    out = run("inspect", exported, "-q").out
    assert f"{'nodes':<22} {in_file} in the file, {standard} in standard operators\n" in out
    assert f"  nodes                {standard} in standard operators\n" in out
    assert "  ratios               0.7, 0.49, 0.343\n" in out
    assert "  precision            fp32\n" in out
    assert "None" not in out


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (PrecisionReport("fp32"), "fp32"),
        (PrecisionReport("int8-dynamic"), "int8-dynamic"),
        (
            PrecisionReport("fp16", "half", "8 images of x.npz", {"head/MatMul": 7e4}),
            "fp16, inputs and outputs in half precision, with 8 images of x.npz, "
            "nodes left in float32: 1",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_inspect_tells_a_precision_in_words(
    report: PrecisionReport, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"ratios": None, "nodes_dense": 3, "nodes": 3, "precision": dataclasses.asdict(report)}
    show_facts({"kind": "onnx", "nodes": 3, "dynexport": known})
    assert capsys.readouterr().out.splitlines() == [
        "kind                   onnx",
        "nodes                  3",
        "dynexport",
        "  nodes_dense          3 in standard operators",
        "  nodes                3 in standard operators",
        f"  precision            {told}",
    ]


def test_models_says_why_convert_counts_less(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"model": "m", "parameters": 10**6, "macs": {1.0: 10**9, 0.7: 7 * 10**8}}
    show_models([{**row, "published_top1": None, "prune_at": [3]}])
    assert capsys.readouterr().out.splitlines()[-1].startswith("GMACs are of the model as trained;")


def test_inspect_reads_an_onnx_file_of_others(run: Run, tmp_path: Path) -> None:
    facts = run("inspect", foreign_onnx(tmp_path), "--json").json
    assert facts["dynexport"] is None
    assert facts["inputs"] == {"x": [1, "n"]}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (".", ". is a folder: expected a checkpoint, an ONNX file or an engine"),
        ("none", "none does not exist: expected a checkpoint, an ONNX file or an engine"),
        pytest.param("garbage", "garbage is not a complete checkpoint"),
        ("garbage.onnx", "garbage.onnx is not a complete ONNX file"),
        ("garbage.safetensors", "garbage.safetensors is not a complete checkpoint"),
    ],
)
def test_inspect_refuses_what_is_neither(run: Run, tmp_path: Path, name: str, problem: str) -> None:
    if name.startswith("garbage"):
        (tmp_path / name).write_bytes(b"garbage")
    refused(run("inspect", name, "--json"), problem)


@pytest.mark.parametrize(
    "args",
    [{"device": "[/x]"}, {"device": "[bold]"}, {"tags": ["[red]a"]}, {"device": ":smile:"}],
    ids=str,
)
def test_inspect_shows_values_as_they_are(
    run: Run, checkpoint: Callable[..., Path], args: dict[str, Any]
) -> None:
    ran = run("inspect", checkpoint(args))
    assert ran.code == 0
    (value,) = args.values()
    assert (value[0] if isinstance(value, list) else value) in ran.out


@pytest.mark.parametrize(
    "args",
    [
        pytest.param({"limit": float("inf")}, id="infinity"),
        pytest.param({"loss": float("nan")}, id="nan"),
        pytest.param({"best": [torch.zeros(1)]}, id="tensor"),
    ],
)
def test_inspect_prints_strict_json_whatever_was_recorded(
    run: Run, checkpoint: Callable[..., Path], args: dict[str, Any]
) -> None:
    ran = run("inspect", checkpoint(args), "--json")
    assert ran.code == 0
    assert ran.json["kind"] == "checkpoint"


@pytest.mark.parametrize("folder", ["[b]x", "[/b] x", "a [red] b"])
@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_brackets_in_a_path_are_no_markup(
    run: Run, exported: Path, folder: str, command: str
) -> None:
    moved = exported.parent.parent / folder / exported.name
    moved.parent.mkdir(parents=True)
    for suffix in (".onnx", ".reference.npz"):
        shutil.copy(exported.with_suffix(suffix), moved.with_suffix(suffix))
    ran = run(command, moved)
    assert ran.code == 0
    assert str(moved) in ran.out + ran.err


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("give `num_heads`", "give --num-heads"),
        ("another of `batches` than `batch` 8", "another of --batch than --batch 8"),
        ("it has no `compute_capabilities`", "it has no --compute-capability"),
        ("a family is given with `plugins`", "a family is given with --plugin"),
        ("time without it, with `pytorch=False`", "time without it, with --no-pytorch"),
        (
            "build it with `dynexport build`, not `a_b`",
            "build it with `dynexport build`, not `a_b`",
        ),
    ],
)
def test_parameters_in_errors_are_shown_as_options(sentence: str, shown: str) -> None:
    assert as_options(sentence) == shown


def test_brackets_in_a_path_are_shown_in_errors(run: Run) -> None:
    refused(run("inspect", "[/b] x.onnx"), "[/b] x.onnx does not exist")
