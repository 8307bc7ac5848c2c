"""Files and output of release 0.1.0, read by today's code: what users have goes on working.

`made/release_0_1_0` holds what its commands wrote of one tiny DeiT (random weights, ratios 0.7, 0.5
and 0.3), and in json_keys.json the names in the JSON that each printed. An engine of 8 MB and its
checkpoint are not kept: the one is stood in for, the other is made again from its seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from made.onnx_models import needs_rtx
from made.tiny import build
from typer.testing import CliRunner

from dynexport.cli import app
from dynexport.engine.sidecar import Sidecar, read_plan
from dynexport.errors import EngineError
from dynexport.formats.reference import ReferenceBundle
from dynexport.models import variants
from dynexport.report.gather import find_searches
from dynexport.report.sweeps import read_sweep
from dynexport.sweep.journal import open_journal
from dynexport.sweep.rows import Row
from dynexport.sweep.search import Search

pytestmark = pytest.mark.slow

RELEASE = Path(__file__).parents[1] / "made" / "release_0_1_0"
KEYS = json.loads((RELEASE / "json_keys.json").read_text())

STAND_IN = b"stands for an engine"

SHORT = "--rounds 1 --round-seconds 0.02"

COMMANDS = {
    "convert": "convert tiny.pth --ratios 0.7,0.5,0.3 --batch 1:3:5 -o again.onnx",
    "convert-int8": "convert tiny.pth --ratios 0.7,0.5,0.3 --batch 4 --precision int8 "
    "--calibration-data cal28.npz -o new/int8.onnx",
    "verify": "verify tiny.onnx",
    "verify-checkpoint": "verify again.onnx --checkpoint tiny.pth --data cal28.npz --bisect",
    "bench": f"bench tiny.onnx --profile {SHORT}",
    "check": "check tiny.onnx",
    "inspect-onnx": "inspect tiny.onnx",
    "inspect-checkpoint": "inspect tiny.pth",
    "inspect-engine": "inspect tiny.engine",
    "doctor": "doctor",
    "models": "models",
    "visualize": "visualize tiny.onnx cal28.npz --count 2 -o new/picture.png",
    "sweep": f"sweep tiny.pth --ratios 0.7,1.0 --data cal28.npz {SHORT} -o new/sweep",
    "optimize": "optimize tiny.onnx -o new/optimized.onnx",
    "report": f"report . {SHORT}",
    "build": "build tiny.onnx --backend tensorrt-rtx --compute-capability 8.6 -o new/tiny.engine",
}
"""As they were called then, in shorter rounds; by what is recorded of each in json_keys.json.

A search is left out, which converts many files: the class of its result is compared instead."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the release left behind, with a checkpoint and an engine; tests write to new/ alone."""
    folder = tmp_path_factory.mktemp("release") / "f"
    shutil.copytree(RELEASE, folder)
    trained = build("deit", 0)
    args = {"pruning_loc": [1, 2, 3], "input_size": 28, "num_heads": 2}
    torch.save({"model": trained.state_dict(), "args": args}, folder / "tiny.pth")
    drawn = np.random.default_rng(0).integers(0, 256, (32, 28, 28, 3), dtype=np.uint8)
    np.savez(folder / "cal28.npz", images=drawn, labels=np.arange(32) % 10)
    (folder / "tiny.engine").write_bytes(STAND_IN)
    sidecar = Sidecar.load(folder / "tiny.engine")
    digest = hashlib.sha256(STAND_IN).hexdigest()
    facts = dataclasses.replace(sidecar, engine_sha256=digest)
    Sidecar.path_beside(folder / "tiny.engine").write_text(facts.to_json())
    (folder / "new").mkdir()
    (folder / "new" / "convert.json").write_text(json.dumps(run(folder, COMMANDS["convert"])))
    return folder


def run(folder: Path, command: str) -> Any:
    """What a command prints as JSON, run in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        done = CliRunner().invoke(app, [*command.split(), "--json", "-q"])
    assert done.exit_code == 0, (command, done.output, done.exception)
    return json.loads(done.stdout)


def lost(recorded: Any, found: Any, place: str = "") -> list[str]:
    """Names that were recorded and are not found; in a list, those that no entry has."""
    if isinstance(recorded, list):
        if not isinstance(found, list):
            return [f"{place}[]"]
        gone = [set(lost(recorded[0], each, f"{place}[]")) for each in found]
        return sorted(set.intersection(*gone)) if gone else [f"{place}[0]"]
    if not isinstance(recorded, dict):
        return []
    if not isinstance(found, dict):
        return [place]
    return [
        each
        for name, inside in recorded.items()
        for each in (
            lost(inside, found[name], f"{place}.{name}") if name in found else [f"{place}.{name}"]
        )
    ]


def test_a_lost_name_is_found() -> None:
    recorded = {"a": None, "b": {"c": None}, "d": [{"e": None, "f": None}]}
    assert lost(recorded, {"a": 1, "b": {"c": [], "new": 0}, "d": [{"e": 1}, {"f": 2}]}) == []
    assert lost(recorded, {"b": {"x": 1}, "d": [{"e": 1}]}) == [".a", ".b.c", ".d[].f"]
    assert lost(recorded, {"a": 1, "b": None, "d": []}) == [".b", ".d[0]"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_rtx if name == "build" else ()) for name in COMMANDS],
)
def test_no_name_of_its_json_is_lost(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the values: doctor finds what is installed here, and of models one is listed."""
    smallest = {"deit-256": variants()["deit-256"]}
    monkeypatch.setattr("dynexport.pytorch.variants.variants", lambda: smallest)
    done = folder / "new" / f"{name}.json"
    found = json.loads(done.read_text()) if done.exists() else run(folder, COMMANDS[name])
    assert not lost(KEYS[name], found)


def test_no_name_of_a_search_is_lost() -> None:
    assert set(KEYS) == {*COMMANDS, "search"}
    assert not lost(KEYS["search"], fields_of(Search))


def fields_of(kind: Any) -> Any:
    """The names in the JSON of a dataclass: of its fields, and of those that they hold."""
    if dataclasses.is_dataclass(kind):
        return {name: fields_of(held) for name, held in get_type_hints(kind).items()}
    inside = [held for held in get_args(kind) if held not in (type(None), Ellipsis)]
    if get_origin(kind) is tuple:
        return [fields_of(inside[0])]
    return fields_of(inside[0]) if inside else None


@pytest.mark.parametrize("name", ["tiny", "tiny-int8"])
def test_its_files_verify(name: str, folder: Path) -> None:
    found = run(folder, f"verify {name}.onnx")
    assert found["passed"]
    assert found["reference"] == f"{name}.reference.npz"
    assert ReferenceBundle.load(folder / f"{name}.reference.npz").kept


def test_its_metadata_reads_as_it_did(folder: Path) -> None:
    """Value by value: what inspect tells of the file is in its report of then."""
    then = {m["file"]: m for m in json.loads((folder / "report.json").read_text())["models"]}
    for name in ("tiny.onnx", "tiny-int8.onnx"):
        found = run(folder, f"inspect {name}")["dynexport"]
        recorded = then[name]["metadata"]
        assert {key: found[key] for key in recorded} == recorded


def test_its_sidecar_loads(folder: Path, tmp_path: Path) -> None:
    """As it was written, beside an engine that is not the one it was written for; then with the
    bytes it names."""
    for suffix in ("", ".json"):
        source = RELEASE / "tiny.engine.json" if suffix else folder / "tiny.engine"
        shutil.copy(source, tmp_path / f"tiny.engine{suffix}")
    facts = Sidecar.load(tmp_path / "tiny.engine")
    written = json.loads((RELEASE / "tiny.engine.json").read_text())
    assert json.loads(facts.to_json()) == written
    assert facts.metadata.keep_counts == (34, 24, 14)
    with pytest.raises(EngineError, match="cut short or changed"):
        read_plan(tmp_path / "tiny.engine", facts)
    assert read_plan(folder / "tiny.engine", Sidecar.load(folder / "tiny.engine")) == STAND_IN
    assert run(folder, "inspect tiny.engine")["intact"]
    assert not run(tmp_path, "inspect tiny.engine")["intact"]


def test_its_sweep_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """Where versions, cores and the checkpoint's digest are those of here, a sweep finds its rows
    and measures none of them again."""
    swept = tmp_path / "sweep"
    shutil.copytree(RELEASE / "sweep", swept)
    first, *lines = (swept / "rows.jsonl").read_text().splitlines()
    recorded = json.loads(first)["of"]
    with open_journal(swept / "rows.jsonl", recorded, "stop") as journal:
        rows = [Row.read(row, swept) for row in journal.rows]
    assert [row.key for row in rows] == [(0.7, "fp32", 8), (1.0, "fp32", 8)]
    started = tmp_path / "other"
    command = "sweep tiny.pth --ratios {} --data cal28.npz --rounds 1 --round-seconds 0.05 -o {}"
    run(folder, command.format("0.9", started))
    now = json.loads((started / "rows.jsonl").read_text().splitlines()[0])["of"]
    assert set(now) == set(recorded)
    of_here = {
        "checkpoint",
        "cores",
        "dynexport",
        "images",
        "model",
        "onnx",
        "onnxruntime",
        "torch",
    }
    then, settings = (json.loads(of["model"]) for of in (recorded, now))
    assert {**then, "img_size": [28, 28]}.items() <= settings.items()  # others joined them
    assert {k: v for k, v in now.items() if k not in of_here} == {
        k: v for k, v in recorded.items() if k not in of_here
    }
    (swept / "rows.jsonl").write_text("\n".join([json.dumps({"format": 1, "of": now}), *lines, ""]))
    resumed = run(folder, command.format("0.7,1.0", swept))
    assert resumed["resumed"] == 2
    then = json.loads((RELEASE / "sweep" / "sweep.json").read_text())["rows"]
    for found, recorded in zip(resumed["rows"], then, strict=True):
        new = set(found["measured"]) - set(recorded["measured"])
        assert {found["measured"].pop(name) for name in new} <= {None, ""}
        assert found == recorded


def test_its_results_are_read_by_a_report() -> None:
    """A sweep and a search, as a report finds them in a folder."""
    sweep = read_sweep(RELEASE / "sweep")
    assert sweep is not None
    assert [row.ratio for row in sweep.rows] == [0.7, 1.0]
    (found,) = find_searches(RELEASE / "sweep")
    assert found.startswith("search-drop-90-fp32-b8.json found `dynexport convert ")
