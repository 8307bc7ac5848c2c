"""`dynexport verify` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made.command_line import Run, change_weight, files_in, foreign_onnx, refused


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
    told = (
        r"tiny model\.reference\.npz(: 'images' .*another tool| is not a complete reference bundle)"
    )
    ran = run("verify", exported)
    refused(ran, "tiny model.reference.npz")
    assert re.search(told, ran.errors[0])


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
    path = foreign_onnx(tmp_path)
    refused(run(command, path), "foreign.onnx carries no dynexport metadata")


def test_verify_refuses_another_checkpoint_and_two_references(
    run: Run, exported: Path, tiny_checkpoint: Path, checkpoint: Callable[..., Path]
) -> None:
    other = checkpoint({"pruning_loc": [1, 2, 3]})
    refused(run("verify", exported, "--checkpoint", other), "was not made from ")
    ran = run("verify", exported, "--checkpoint", tiny_checkpoint, "--reference", "x.npz")
    refused(ran, "--reference and --checkpoint were both given: give one of the two")
