"""The search: the way down, where on it a target is met, and the command that makes the file."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made.tiny import build

from dynexport.bench.timing import Plan
from dynexport.cli import main
from dynexport.cli.options import parse_latency
from dynexport.conversion import Recipe, convert, open_checkpoint
from dynexport.errors import InputError, VerificationError
from dynexport.formats.onnx_file import read_metadata
from dynexport.schedule import KeepSchedule
from dynexport.sweep.descent import (
    Point,
    Way,
    count_exported,
    find_cheap,
    find_fast,
    fit_macs,
    lower_stages,
    predict_latency,
    walk_down,
)
from dynexport.sweep.inputs import Rig
from dynexport.sweep.ratios import ratios_of
from dynexport.sweep.search import search_schedule

pytestmark = pytest.mark.slow

RIG = Rig(plan=Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0))


@st.composite
def schedules(draw: Any) -> tuple[tuple[int, ...], int]:
    """Counts that never rise, and the grid."""
    tokens = draw(st.integers(1, 2000))
    counts = draw(st.lists(st.integers(1, tokens), min_size=1, max_size=5))
    return tuple(sorted(counts, reverse=True)), tokens


@given(schedules())
def test_ratios_give_exactly_the_counts(case: tuple[tuple[int, ...], int]) -> None:
    counts, tokens = case
    ratios = ratios_of(counts, tokens)
    assert KeepSchedule(ratios).counts(tokens) == counts  # it refuses ratios that rise
    again = tuple(float(text) for text in ",".join(map(str, ratios)).split(","))
    assert again == ratios


def test_ratios_are_as_short_as_can_be() -> None:
    assert ratios_of((196, 137, 97, 1), 196) == (1.0, 0.7, 0.495, 0.01)


def test_one_stage_is_lowered_and_those_after_it_follow() -> None:
    assert lower_stages((10, 10, 4), 3) == [(7, 7, 4), (10, 7, 4), (10, 10, 1)]
    assert lower_stages((2, 1), 3) == [(1, 1)]
    assert lower_stages((1, 1), 3) == []


def harmless_but(stage: int, tokens: int) -> Callable[[tuple[int, ...]], Point]:
    """Judges schedules of a model to which only one stage matters."""

    def judge(counts: tuple[int, ...]) -> Point:
        lost = (tokens - counts[stage]) / tokens
        return Point(ratios_of(counts, tokens), counts, 100 + sum(counts), lost, 1.0 - lost)

    return judge


def test_the_way_goes_down_where_it_harms_least() -> None:
    points = list(walk_down(harmless_but(0, 8), 8, 3, 4))
    counts = [point.keep_counts for point in points]
    assert counts[0] == (8, 8, 8)
    assert counts[-1] == (1, 1, 1)
    free = [kept for kept in counts if kept[0] == 8]
    assert free[-1] == (8, 1, 1)  # what matters is lowered last
    assert len(set(counts)) == len(counts)
    for here, there in itertools.pairwise(points):
        assert there.macs < here.macs


def a_way() -> Way:
    return Way(walk_down(harmless_but(2, 40), 40, 3, 2))


def test_the_first_that_is_fast_enough_is_found_with_few_files() -> None:
    seen: list[Point] = []

    def measure(point: Point) -> float:
        seen.append(point)
        return 5.0 + 0.1 * point.macs  # in no proportion to them

    way = a_way()
    found = find_fast(way, measure, 20.0)
    fast = [point for point in way.points if 5.0 + 0.1 * point.macs <= 20.0]
    assert found == fast[0]
    assert len(seen) <= 5


def test_the_model_that_keeps_all_may_be_fast_enough() -> None:
    way = a_way()
    assert find_fast(way, lambda point: 1.0, 20.0) == way.points[0]


def test_a_file_that_fails_verification_is_passed_over() -> None:
    broken = (40, 40, 40)
    found = find_fast(a_way(), lambda p: None if p.keep_counts == broken else 0.1 * p.macs, 15.0)
    assert 0.1 * found.macs <= 15.0


def test_a_latency_that_cannot_be_met_tells_the_best() -> None:
    with pytest.raises(VerificationError, match=r"keeps 1, 1, 1 tokens and takes 15\.30 ms"):
        find_fast(a_way(), lambda point: 5.0 + 0.1 * point.macs, 1.0)
    with pytest.raises(VerificationError, match="no file passed verification"):
        find_fast(a_way(), lambda point: None, 1.0)


def test_latency_is_predicted_along_the_line_through_what_was_measured() -> None:
    way = a_way()
    assert way.reaches(3)
    macs = [point.macs for point in way.points]
    assert predict_latency(way, {0: 10.0}, 3) == pytest.approx(10.0 * macs[3] / macs[0])
    line = {0: 5.0 + macs[0], 2: 5.0 + macs[2]}
    assert predict_latency(way, line, 3) == pytest.approx(5.0 + macs[3])


@pytest.mark.parametrize("target", [0.0, 5.0, 12.0, 50.0, 100.0])
def test_the_cheapest_that_loses_little_enough_is_found(target: float) -> None:
    """Converted files lose a little more than PyTorch on few images suggests."""

    def lost(point: Point) -> float:
        return 0.0 if point.keep_counts[2] == 40 else 100.0 * point.divergence + 3.0

    way = a_way()
    found = find_cheap(way, lost, target)
    way.reaches(1000)
    kept = [point for point in way.points if lost(point) <= target]
    assert found == kept[-1]


def test_a_drop_that_cannot_be_met_tells_the_best() -> None:
    with pytest.raises(VerificationError, match=r"keeps all 40 tokens loses 3\.00"):
        find_cheap(a_way(), lambda point: 3.0 + 100.0 * point.divergence, 0.5)
    with pytest.raises(VerificationError, match="its file fails verification"):
        find_cheap(a_way(), lambda point: None, 0.5)


@pytest.mark.parametrize("family", ["deit", "swin"])
def test_multiply_accumulates_are_those_of_the_exported_graph(tmp_path: Path, family: str) -> None:
    """Fitted on seven schedules, exact on others: as a conversion counts them."""
    trained = open_checkpoint(Recipe(write_checkpoint(tmp_path, family)))
    tokens = trained.config.num_tokens
    macs = fit_macs(lambda counts: count_exported(trained, counts), tokens, 3)
    for counts in ((tokens - 9, 20, 7), (30, 30, 30)):
        assert macs(counts) == count_exported(trained, counts)
    made = convert(
        Recipe(
            trained.checkpoint.path,
            ratios=ratios_of((31, 12, 5), tokens),
            output=tmp_path / "a.onnx",
        )
    )
    assert macs((31, 12, 5)) == made.metadata.macs_sparse


def test_a_family_that_counts_otherwise_is_refused(tmp_path: Path) -> None:
    plugin = Path(__file__).parents[2] / "examples" / "evit" / "evit.py"
    recipe = Recipe(write_checkpoint(tmp_path, "evit"), plugins=(plugin,))
    with pytest.raises(InputError, match="evit counts ratios otherwise: give `ratios`"):
        search_schedule(recipe, max_drop=1.0, rig=RIG, output=tmp_path / "out")


def test_the_command_gives_the_counts_that_were_found(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drop of all points: the way goes to its end, and the command makes the same file."""
    data = tmp_path / "some images.npz"
    generator = np.random.default_rng(0)
    np.savez(
        data,
        images=generator.integers(0, 256, (12, 28, 28, 3), dtype=np.uint8),
        labels=generator.integers(0, 10, 12),
    )
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        main(
            [
                *("sweep", str(tiny_checkpoint), "--max-drop", "100", "--data", str(data)),
                *("--rounds", "1", "--round-seconds", "0.01", "--batch", "2", "--step", "20"),
                *("-o", str(output), "--json", "--quiet"),
            ]
        )
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((output / "search-drop-100-fp32-b2.json").read_text())
    assert found["measured"]["keep_counts"] == [1, 1, 1]
    assert found["measured"]["agreement"] == 1.0 - found["found"] / 100 or found["labelled"]
    program, *arguments = shlex.split(found["command"])
    assert program == "dynexport"
    file = tmp_path / "made.onnx"
    with pytest.raises(SystemExit) as left:
        main([*arguments, "-o", str(file), "--quiet"])
    assert left.value.code == 0
    facts = read_metadata(file)
    assert list(facts.keep_counts) == found["measured"]["keep_counts"]
    assert facts.macs_sparse == found["measured"]["macs"]
    assert facts.batch == "2"
    assert file.stat().st_size == found["measured"]["size_bytes"]


def test_a_latency_is_met_by_what_was_measured(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """However long the machine takes: the target is far above it."""
    steps: list[str] = []
    found = search_schedule(
        Recipe(tiny_checkpoint, batch=1),
        target_latency=60_000.0,
        rig=RIG,
        output=tmp_path,
        on_step=steps.append,
    )
    assert found.measured.keep_counts == (49, 49, 49)
    assert found.found == found.measured.latency_ms <= found.target
    assert found.images == "64 synthetic images"
    assert [step for step in steps if step.startswith("convert to")] == [
        "convert to 49, 49, 49 tokens"
    ]


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("12ms", 12.0), ("0.012 s", 12.0), ("7.5", 7.5), (" 3 MS ", 3.0)]
)
def test_latencies_as_people_write_them(text: str, milliseconds: float) -> None:
    assert parse_latency(text) == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "give one of --ratios, as in 0.5:1.0:0.1, --target-latency"),
        (("--ratios", "0.5", "--max-drop", "1"), "give one of --ratios"),
        (("--target-latency", "soon"), "'soon' is no time: write it as 12ms"),
        (("--target-latency", "-1ms"), "a latency of -1 ms is not valid"),
        (("--max-drop", "101"), "a drop of 101 points is not valid: give 0 to 100"),
        (("--max-drop", "1", "--batch", "1,8"), "one precision and one batch size"),
        (("--max-drop", "1", "--precision", "fp32,fp16"), "one precision and one batch size"),
        (("--max-drop", "1", "--step", "0"), "a step of 0 tokens is not valid"),
        (("--max-drop", "1", "--align", "8"), "leave --align out"),
        (("--max-drop", "1", "--keep-models"), "--keep-models is of a sweep"),
        (("--ratios", "0.5", "--step", "3"), "--step is of a search"),
    ],
)
def test_searches_refuse_in_one_sentence(
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    problem: str,
) -> None:
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(tiny_checkpoint), *options, "-o", str(output), "-q"])
    told = capsys.readouterr()
    assert (left.value.code, told.out) == (2, "")
    assert problem in told.err
    assert len(told.err.splitlines()) == 1
    assert not output.exists()


def write_checkpoint(folder: Path, family: str) -> Path:
    """A tiny model of a family, as users have it."""
    trained = build(family, 0)
    config = trained.config
    args = {"pruning_loc": list(config.prune_at), "input_size": list(config.img_size)}
    path = folder / f"{family}.pth"
    heads = getattr(config, "num_heads", None)
    torch.save({"model": trained.state_dict(), "args": {**args, "num_heads": heads}}, path)
    return path
