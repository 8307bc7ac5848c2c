"""The command line: results on stdout, one sentence on stderr, exit codes, nothing half-written."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from dynexport.cli import main
from dynexport.cli.inspect import show_facts
from dynexport.cli.models import show_models
from dynexport.cli.options import as_options
from dynexport.conversion import Conversion
from dynexport.precision import PrecisionReport

ODD = "with späces, 模型"
"""A folder name that quoting and encoding must survive."""


@dataclass(frozen=True)
class Ran:
    code: object
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines on stderr that do not tell of progress."""
        return [line for line in self.err.splitlines() if not line.startswith("... ")]

    @property
    def json(self) -> Any:
        """All of stdout as one value of strict JSON."""
        return json.loads(self.out, parse_constant=pytest.fail)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, in an empty folder; an exception fails the test."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def call(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Ran(left.value.code, *capsys.readouterr())

    return call


def run_process(*arguments: object, cwd: Path) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "dynexport", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def files_in(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder, and what a file holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(ran: Ran, problem: str, code: int = 2) -> None:
    """One sentence on stderr, nothing on stdout."""
    assert ran.code == code
    assert ran.out == ""
    assert len(ran.errors) == 1, ran.err
    assert ran.errors[0].startswith("error: ")
    assert problem in ran.errors[0]
    assert "Traceback" not in ran.err


def command_line(value: object) -> str:
    """The id of a case: its arguments as typed."""
    return " ".join(value) if isinstance(value, tuple) else ""


@pytest.fixture
def exported(tmp_path: Path, tiny_conversion: Conversion) -> Path:
    """A copy of the tiny ONNX file and its bundle, to be changed."""
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copy(tiny_conversion.onnx, folder / "tiny model.onnx")
    shutil.copy(tiny_conversion.reference, folder / "tiny model.reference.npz")
    return folder / "tiny model.onnx"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: nn.Module) -> Callable[..., Path]:
    """Writes the tiny checkpoint with other arguments or changed tensors."""

    def write(args: dict[str, Any], **changed: torch.Tensor) -> Path:
        state = {**tiny_model.state_dict(), **changed}
        torch.save({"model": state, "args": argparse.Namespace(**args)}, tmp_path / "c.pth")
        return tmp_path / "c.pth"

    return write


def change_weight(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Rewrite one initializer of an ONNX file."""
    model = onnx.load(str(path))
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    onnx.save(model, str(path))


def change_metadata(path: Path, field: str, value: str | None) -> None:
    model = onnx.load(str(path))
    entries = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    entries[f"dynexport.{field}"] = value or ""
    if value is None:
        del entries[f"dynexport.{field}"]
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, str(path))


def change_bundle(path: Path, **changes: Any) -> None:
    """Rewrite arrays of a bundle; None takes one away."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored}
    arrays.update(changes)
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


# ---------------------------------------------------------------- convert


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


# ---------------------------------------------------------------- verify


def test_verify_passes_what_convert_wrote(run: Run, exported: Path) -> None:
    ran = run("verify", exported)
    assert ran.code == 0
    assert ran.out.startswith(
        "verified with onnxruntime on 8 images, batch 1, 3, 4:\nlogits: error max "
    )
    assert "top-1 agrees 100.0%" in ran.out
    assert "kept sets agree 100.0%, 100.0%, 100.0%" in ran.out
    assert ran.errors == []


def test_verify_prints_json_alone(run: Run, exported: Path) -> None:
    ran = run("verify", exported, "--json", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["failures"] == []
    assert ran.json["images"] == 8


def test_verify_asks_pytorch_afresh_with_and_without_a_bundle(
    run: Run, exported: Path, tiny_checkpoint: Path
) -> None:
    assert run("verify", exported, "--checkpoint", tiny_checkpoint).code == 0
    exported.with_suffix(".reference.npz").unlink()
    ran = run("verify", exported, "--checkpoint", tiny_checkpoint, "--json")
    assert ran.code == 0
    assert ran.json["reference"] == str(tiny_checkpoint)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("weight", "change", "failure"),
    [
        ("head.bias", lambda bias: bias + np.float32(0.1), "logits differs by 0.1"),
        ("score_predictor.0.score/constant", lambda weight: -weight, "stage 1 swapped"),
    ],
)
def test_verify_exits_with_1_where_the_model_differs(
    run: Run,
    exported: Path,
    weight: str,
    change: Callable[[Any], Any],
    failure: str,
    as_json: bool,
) -> None:
    change_weight(exported, weight, change)
    before = files_in(exported.parent)
    ran = run("verify", exported, *(["--json"] if as_json else []))
    assert ran.code == 1
    assert ran.errors == []
    if as_json:
        assert any(failure in each for each in ran.json["failures"])
    else:
        assert ran.out.startswith("NOT verified with onnxruntime")
        assert f"failed: {failure}" in ran.out
    assert files_in(exported.parent) == before


def test_verify_accepts_a_difference_within_the_tolerance_asked_for(
    run: Run, exported: Path
) -> None:
    change_weight(exported, "head.bias", lambda bias: bias + np.float32(0.01))
    assert run("verify", exported).code == 1
    assert run("verify", exported, "--tolerance", "0.1").code == 0


def test_verify_refuses_a_missing_bundle(run: Run, exported: Path) -> None:
    exported.with_suffix(".reference.npz").unlink()
    ran = run("verify", exported, "--json")
    refused(ran, "tiny model.reference.npz does not exist: expected a reference bundle")
    refused(run("verify", exported, "--reference", "x.npz"), "x.npz does not exist")


@pytest.mark.parametrize(
    ("key", "value"),
    [("checkpoint_sha256", "f" * 64), ("weights", "model_ema"), ("ratios", [0.9, 0.8, 0.7])],
)
def test_verify_refuses_the_bundle_of_another_model(
    run: Run, exported: Path, key: str, value: Any
) -> None:
    bundle = exported.with_suffix(".reference.npz")
    with np.load(bundle) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
    facts[key] = value
    change_bundle(bundle, facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8))
    refused(run("verify", exported), f"was recorded for {key} {value}, but ")


def _write_lone_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_text("text"), id="text"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-30]), id="end cut"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:500]), id="cut"),
        pytest.param(lambda path: change_bundle(path, **{"output:logits": None}), id="no logits"),
        pytest.param(lambda path: change_bundle(path, facts=None), id="no facts"),
        pytest.param(lambda path: change_bundle(path, scores_1=None), id="no scores"),
        pytest.param(lambda path: change_bundle(path, facts=np.zeros(3, np.uint8)), id="facts"),
        pytest.param(_write_lone_array, id="lone array"),
        pytest.param(
            lambda p: change_bundle(p, facts=np.frombuffer(b"[1]", np.uint8)), id="facts a list"
        ),
        pytest.param(
            lambda path: change_bundle(path, kept_2=None, scores_2=None), id="a stage less"
        ),
        pytest.param(
            lambda path: change_bundle(
                path,
                **{f"{name}_{stage}": None for name in ("kept", "scores") for stage in (0, 1, 2)},
            ),
            id="no stages",
        ),
        pytest.param(
            lambda p: change_bundle(p, images=np.zeros((0, 28, 28, 3), np.uint8)), id="no images"
        ),
        pytest.param(
            lambda p: change_bundle(p, images=np.zeros((8, 20, 28, 3), np.uint8)), id="size"
        ),
        pytest.param(lambda path: change_bundle(path, images=np.zeros((8, 3, 28, 28))), id="kind"),
        pytest.param(
            lambda path: change_bundle(path, kept_0=np.full((8, 34), 99, np.int64)), id="positions"
        ),
    ],
)
def test_verify_refuses_a_damaged_bundle(
    run: Run, exported: Path, damage: Callable[[Path], Any]
) -> None:
    damage(exported.with_suffix(".reference.npz"))
    refused(run("verify", exported), "tiny model.reference.npz is not a complete reference bundle")


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
@pytest.mark.parametrize(
    "content", [b"", b"text", bytes(99), b"\x80\x02}q\x00.", None], ids=["0", "t", "z", "p", "cut"]
)
def test_a_damaged_onnx_file_is_refused(
    run: Run, exported: Path, command: str, content: bytes | None
) -> None:
    exported.write_bytes(exported.read_bytes()[:50_000] if content is None else content)
    refused(run(command, exported), "tiny model.onnx is not a complete ONNX file: export it again")


@pytest.mark.parametrize("command", ["verify", "bench"])
@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("ratios", None, "carries no dynexport metadata (ratios is missing)"),
        ("preprocessing", "{", "the dynexport metadata of"),
    ],
)
def test_an_onnx_file_without_whole_metadata_is_refused(
    run: Run, exported: Path, command: str, field: str, value: str | None, problem: str
) -> None:
    change_metadata(exported, field, value)
    refused(run(command, exported), problem)


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_an_onnx_file_of_others_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    path = _foreign_onnx(tmp_path)
    refused(run(command, path), "foreign.onnx carries no dynexport metadata")


def _foreign_onnx(folder: Path) -> Path:
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "n"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, "n"])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "foreign", [shape], [other])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "foreign.onnx"
    )
    return folder / "foreign.onnx"


def test_verify_refuses_another_checkpoint_and_two_references(
    run: Run, exported: Path, tiny_checkpoint: Path, checkpoint: Callable[..., Path]
) -> None:
    other = checkpoint({"pruning_loc": [1, 2, 3]})
    refused(run("verify", exported, "--checkpoint", other), "was not made from ")
    ran = run("verify", exported, "--checkpoint", tiny_checkpoint, "--reference", "x.npz")
    refused(ran, "--reference and --checkpoint were both given: give one of the two")


# ---------------------------------------------------------------- bench


def test_bench_times_the_file_and_its_dense_twin(run: Run, exported: Path) -> None:
    before = files_in(exported.parent)
    ran = run(
        *("bench", exported, "--no-pytorch", "--rounds", 2, "--round-seconds", 0.01),
        *("--batch", 5, "--threads", 1, "--json"),
    )
    assert ran.code == 0
    assert ran.errors == []
    (result,) = ran.json["batches"]
    assert result["batch"] == 5
    labels = [timing["label"] for timing in result["timings"]]
    assert labels == ["onnxruntime sparse", "onnxruntime dense"]
    assert all(len(timing["total"]["rounds"]) == 2 for timing in result["timings"])
    (gain,) = result["gains"]
    assert gain["efficiency"] == pytest.approx(gain["speedup"] / ran.json["ideal"])
    assert gain["efficiency_error"] == pytest.approx(gain["speedup_error"] / ran.json["ideal"])
    assert (gain["rounds"], gain["unsettled"][:11]) == (2, "not settled")
    assert (ran.json["threads"], ran.json["unsettled"]) == (1, gain["unsettled"])
    machine = ran.json["machine"]
    assert {"cpu", "flags", "cores", "platform", "python", "date"} <= set(machine)
    assert {"dynexport", "numpy", "onnx", "onnxruntime"} <= set(machine["versions"])
    assert files_in(exported.parent) == before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--batch", "6"), "batch 6 does not fit this file, which takes 1:3:5: convert again"),
        (("--batch", "0"), "batch 0 does not fit this file"),
        (("--backend", "onnxruntme"), "unknown backend 'onnxruntme': did you mean 'onnxruntime'?"),
        (("--backend", "zzz"), "unknown backend 'zzz': choose from onnxruntime"),
        (("--rounds", "0"), "a measurement needs at least one round of more than 0 seconds"),
        (("--round-seconds", "0"), "a measurement needs at least one round of more than 0 seconds"),
        (
            ("--round-seconds", "-1"),
            "a measurement needs at least one round of more than 0 seconds",
        ),
        (
            ("--threads", "-1", "--no-pytorch", "--rounds", "1", "--round-seconds", "0.01"),
            "threads",
        ),
    ],
    ids=command_line,
)
def test_bench_refuses_in_one_sentence(
    run: Run, exported: Path, options: tuple[str, ...], problem: str
) -> None:
    refused(run("bench", exported, *options), problem)


def test_verify_refuses_an_unknown_backend(run: Run, exported: Path) -> None:
    problem = "unknown backend 'onyxruntime': did you mean 'onnxruntime'?"
    refused(run("verify", exported, "--backend", "onyxruntime"), problem)


# ---------------------------------------------------------------- inspect


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
    facts = run("inspect", _foreign_onnx(tmp_path), "--json").json
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


# ---------------------------------------------------------------- the program itself


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("convrt",), "No such command 'convrt'"),
        (("convert",), "Missing argument 'CKPT'"),
        (("convert", "x.pth", "--rato", "0.7"), "--rato"),
        (("convert", "x.pth", "--ratio", "much"), "--ratio"),
        (("convert", "x.pth", "--opset", "new"), "--opset"),
        (("verify",), "Missing argument"),
        (("bench", "x.onnx", "--rounds", "some"), "--rounds"),
        (("inspect",), "Missing argument 'FILE'"),
    ],
    ids=command_line,
)
def test_wrong_usage_exits_with_2_and_is_told_on_stderr(
    run: Run, arguments: tuple[str, ...], problem: str
) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err
    assert "Traceback" not in ran.err


def test_version_and_help_go_to_stdout(run: Run) -> None:
    ran = run("--version")
    assert (ran.code, ran.out.split()[0], ran.err) == (0, "dynexport", "")
    for command in ("convert", "verify", "bench", "inspect"):
        ran = run(command, "-h")
        assert (ran.code, ran.err) == (0, "")
        assert "--json" in ran.out


def test_a_process_verifies_and_prints_json_alone(exported: Path) -> None:
    ran = run_process("verify", exported.name, "--json", cwd=exported.parent)
    assert ran.code == 0
    assert ran.json["failures"] == []
    assert ran.errors == []


def test_a_process_exits_with_1_where_the_model_differs(exported: Path) -> None:
    change_weight(exported, "head.bias", lambda bias: bias + np.float32(1))
    ran = run_process("verify", exported, cwd=exported.parent)
    assert ran.code == 1
    assert "NOT verified" in ran.out
    assert ran.errors == []


def test_a_process_refuses_a_file_that_would_run_code(tmp_path: Path) -> None:
    content = b"cos\nmkdir\n(S'marker'\ntR."  # a pickle that calls os.mkdir("marker")
    (tmp_path / "c.pth").write_bytes(content)
    refused(run_process("inspect", "c.pth", "--json", cwd=tmp_path), "c.pth ")
    assert list(files_in(tmp_path)) == ["c.pth"]
