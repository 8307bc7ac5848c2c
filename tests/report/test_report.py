"""The report: one page that loads nothing, whose numbers are those of report.json."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made.headless import BROWSER, Browser, open_browser
from made.onnx_models import unary
from made.tiny import convert_tiny
from PIL import Image

from dynexport.bench import Gain
from dynexport.bench.ratios import Ratio
from dynexport.bench.results import summarise
from dynexport.bench.timing import Plan
from dynexport.cli import main
from dynexport.cli.report import show_report
from dynexport.conversion import Recipe, convert
from dynexport.engine import build_engine
from dynexport.engine.sidecar import Sidecar
from dynexport.errors import InputError, MissingExtraError
from dynexport.formats.reference import ReferenceBundle
from dynexport.images import synthetic_images
from dynexport.precision import Precision
from dynexport.report import Report, write_report
from dynexport.report.charts import harm_bars
from dynexport.report.facts import ModelFacts
from dynexport.report.gather import read_exported
from dynexport.report.page import NUMBERS, TIMES, load_template
from dynexport.report.pictures import encode_picture
from dynexport.report.steps import BUILT_IN, list_steps
from dynexport.report.sweeps import sweep_clouds
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.schedule import KeepSchedule, parse_ratios, power_schedule
from dynexport.sweep.rows import Measured, Row, Sweep, draw_panels, find_best

pytestmark = pytest.mark.slow

ODD = "<script>alert('1')<!-- & \"co\" 模型.onnx"
"""A name that quoting, escaping and encoding must survive."""

SHORT = Plan(rounds=2, round_seconds=0.01, warmup_seconds=0.0)
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """A page as a strict reader sees it: every element closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.numbers: list[tuple[float, str]] = []
        self._value: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "data":
            self._value = dict(attrs)["value"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if self._value is not None:
            self.numbers.append((float(self._value), data))
            self._value = None

    def values_of(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@dataclass(frozen=True)
class Reported:
    report: Report
    text: str
    page: Page
    facts: dict[str, Any]

    def model(self, name: str) -> ModelFacts:
        return next(model for model in self.report.models if model.file == name)


def move_model(source: Path, target: Path) -> None:
    """An ONNX file and its bundle."""
    bundle = ReferenceBundle.path_beside(source)
    source.rename(target)
    bundle.rename(ReferenceBundle.path_beside(target))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two families converted, the checkpoints beside them, and images to calibrate on."""
    folder = tmp_path_factory.mktemp("made")
    convert_tiny(folder, "deit", (0.7, 0.5, 0.3), batch="2")
    convert_tiny(folder, "swin", (0.7, 0.5, 0.3), batch="1:2:3")
    np.savez(folder / "calibration.npz", images=synthetic_images(24, 28))
    return folder


@pytest.fixture(scope="module")
def folder(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is reported on: two families, int8 with its layers ranked, a dense model without its
    bundle, an engine, and files that are none of these."""
    folder = tmp_path_factory.mktemp("models")
    for file in checkpoints.iterdir():
        if file.suffix != ".pth":
            shutil.copy(file, folder)
    move_model(folder / "deit.onnx", folder / ODD)
    int8 = Precision("int8", calibration_data=folder / "calibration.npz", fallback_to="auto")
    checkpoint = checkpoints / "deit.pth"
    convert(Recipe(checkpoint, ratio=0.7, batch=2, precision=int8, output=folder / "int8.onnx"))
    convert(Recipe(checkpoint, dense=True, batch=1, output=folder / "whole.onnx"))
    (folder / "whole.reference.npz").unlink()
    options = BuildOptions(compute_capabilities=("8.6", "8.9"), tf32=True)
    engine = folder / "odd.engine"
    build_engine(folder / ODD, edition="tensorrt-rtx", options=options, output=engine)
    shutil.copy(folder / "odd.engine", folder / "lost.engine")
    (folder / "broken.onnx").write_bytes(b"no ONNX")
    onnx.save(unary("Relu", [1]), folder / "foreign.onnx")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Reported:
    report = write_report(folder, plan=SHORT)
    text = Path(report.html).read_text(encoding="utf-8")
    facts = json.loads(Path(report.json).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return Reported(report, text, Page(text), facts)


def test_the_page_is_whole(made: Reported) -> None:
    """Well formed (its reader closes every element), a section a model, in the folder's order."""
    assert made.text.startswith("<!DOCTYPE html>")
    names = sorted([ODD, "int8.onnx", "swin.onnx", "whole.onnx"])
    assert [model.file for model in made.report.models] == names
    assert made.page.texts["h2"] == ["Side by side", *names, "Environment"]
    anchors = {f"#{value}" for value in made.page.values_of("id")}
    assert set(made.page.values_of("href")) <= anchors
    assert len(made.text) < 2_000_000


def test_nothing_is_loaded_and_nothing_runs(made: Reported) -> None:
    assert not {"script", "link", "iframe", "object", "base"} & set(made.page.texts)
    assert not [name for _, name, _ in made.page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/") for value in made.page.values_of("src"))
    assert not re.search(r"url\(|@import", made.page.texts["style"][0])
    assert "default-src 'none'" in " ".join(made.page.values_of("content"))


def test_names_are_escaped(made: Reported) -> None:
    """The odd name stands in headings, links, commands and captions, as text."""
    assert "<script" not in made.text
    assert ODD in made.page.texts["h2"]
    assert ODD in made.page.texts["a"]
    assert any(ODD in label for label in made.page.values_of("aria-label"))


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, (int, float)):
        yield float(value)


def test_numbers_are_those_of_the_json(made: Reported) -> None:
    """Every number of the page is in report.json, and what is measured is in the page."""
    known = set(numbers_in(made.facts))
    assert made.facts == made.report.to_plain()
    assert {value for value, _ in made.page.numbers} <= known
    shown = {value for value, _ in made.page.numbers}
    for model in made.report.models:
        assert model.bench is not None
        for timing in model.bench.batches[0].timings:
            assert {timing.total.p50, timing.images_per_second} <= shown
            assert timing.total.p99 in shown or timing.runs < 100
        if model.bench.gain is not None:  # of two rounds: the quotients are not to be shown
            assert model.bench.ideal in shown
            assert model.bench.unsettled.startswith("not settled: 2 rounds, give at least 5")
            assert not {model.bench.speedup, model.bench.efficiency} & shown
        if model.verification is not None:
            errors, limits = model.verification.errors["logits"], model.verification.tolerances
            error = errors.l2 if limits.measure == "l2" else errors.max_abs
            assert {error, errors.scale, limits.outputs, limits.tie_margin} <= shown


@pytest.mark.parametrize(
    ("speedup", "error", "sentence"),
    [
        (1.4, 0.02, "Sparse pays."),
        (0.8, 0.02, "Sparse does not pay here."),
        (1.03, 0.02, "Whether sparse pays is not settled."),
    ],
)
def test_what_is_settled_stands_with_its_error(
    made: Reported, speedup: float, error: float, sentence: str
) -> None:
    model = made.model("swin.onnx")
    assert model.bench is not None
    gain = Gain.of("onnxruntime", Ratio(speedup, error, 10), model.bench.ideal)
    (batch,) = model.bench.batches
    bench = summarise(
        *("swin.onnx", None, model.bench.ideal, (replace(batch, gains=(gain,)),), {}),
        *(None, None, (), model.bench.machine),
    )
    report = replace(made.report, models=(replace(model, bench=bench),) * 2)
    page = Page(load_template().render(report=report))
    shown = {value for value, _ in page.numbers}
    assert {gain.speedup, gain.speedup_error, gain.efficiency, gain.efficiency_error} <= shown
    assert page.texts["p"][1].startswith(sentence)
    cells = [" ".join(cell.split()) for cell in page.texts["td"]]
    assert f"{speedup:.2f}{TIMES} ± {error:.2f}{TIMES}" in cells


def test_numbers_are_written_as_they_are(made: Reported) -> None:
    """What stands beside a value is that value, rounded."""
    powers = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    units = {"%": 0.01, "MB": 1e6, "GiB": 2.0**30, "G": 1e9, "M": 1e6, "": 1.0}
    for value, text in made.page.numbers:
        plain = text.replace("\xa0", " ").replace(",", "")
        if f" {TIMES} 10" in plain:
            mantissa, power = plain.split(f" {TIMES} 10")
            assert float(f"{mantissa}e{power.translate(powers)}") == pytest.approx(value, rel=0.06)
            continue
        number, _, unit = plain.removesuffix(TIMES).partition(" ")
        step = 10.0 ** -len(number.partition(".")[2]) * units[unit]
        room = max(0.51 * step, 0.006 * abs(value))
        assert abs(float(number) * units[unit] - value) <= room, (value, text)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("times", 1.583, f"1.58{TIMES}"),
        ("percent", 0.9825, "98.2\xa0%"),
        ("ms", 13.031, "13.03"),
        ("ms", 130.31, "130.3"),
        ("number", 2.9e-6, f"2.9\xa0{TIMES}\xa010⁻⁶"),
        ("number", 0.0, "0"),
        ("number", 9.77, "9.77"),
        ("number", 1234.0, "1,234"),
        ("count", 1234, "1,234"),
        ("rate", 614.3, "614"),
        ("rate", 14.03, "14.0"),
        ("cosine", 0.9999994, "0.999999"),
        ("size", 3046489, "3.05\xa0MB"),
        ("size", 2**35, "32.0\xa0GiB"),
        ("macs", 2.88e9, "2.88\xa0G"),
        ("macs", 85.6e6, "85.6\xa0M"),
        ("macs", 999, "999"),
    ],
)
def test_numbers_for_people(name: str, value: float, text: str) -> None:
    assert NUMBERS[name](value) == text


def test_what_is_missing_is_told_in_its_place(made: Reported) -> None:
    whole = made.model("whole.onnx")
    assert whole.verification is None
    assert whole.pictures == ()
    assert "whole.reference.npz does not exist" in whole.left_out["verification"]
    assert whole.left_out["pictures"] == "it is dense: it keeps every patch"
    assert "fp32 quantises nothing" in whole.left_out["sensitivity"]
    text = " ".join(made.page.texts["body"][0].split())
    for model in made.report.models:
        for reason in model.left_out.values():
            assert reason[1:].replace("`", "") in text
    assert "`" not in text
    assert made.report.verified == 3
    assert "3 of 4 models are verified." in text


def test_files_that_are_no_models_are_named(made: Reported) -> None:
    told = made.report.strangers
    assert set(told) == {"broken.onnx", "foreign.onnx", "lost.engine"}
    assert "is not a complete ONNX file" in told["broken.onnx"]
    assert "carries no dynexport metadata" in told["foreign.onnx"]
    assert "has no sidecar" in told["lost.engine"]
    assert set(told) <= set(made.page.texts["dt"])


def test_an_engine_stands_with_its_model(made: Reported) -> None:
    (engine,) = made.model(ODD).engines
    assert engine.file == "odd.engine"
    assert engine.flavour == "tensorrt-rtx"
    assert engine.layers > 0
    assert "Engine odd.engine" in made.page.texts["h3"]
    if engine.bench is None:  # no GPU
        assert engine.left_out["latency"]
        assert engine.verification is None
        reason = engine.left_out["verification"].partition(": ")[0]
        assert f"3 of 4 models are verified. 1 engine not run: {reason}." in made.page.texts["p"][1]


def test_the_command_builds_the_engine_again(made: Reported, folder: Path, tmp_path: Path) -> None:
    (engine,) = made.model(ODD).engines
    again = tmp_path / "again.engine"
    before = folder / "odd.engine"
    assert run_step(engine.steps[0].command, {str(before): str(again)}) == 0
    facts = [vars(Sidecar.load(path)) for path in (before, again)]
    for one in facts:
        del one["seconds"], one["engine_sha256"]
    assert facts[0] == facts[1]
    assert all(step.command in made.page.texts["code"] for step in engine.steps)


def test_layers_are_ranked_by_harm(made: Reported) -> None:
    ranking = made.model("int8.onnx").metadata.precision["int8"]["ranking"]
    bars = harm_bars(ranking, ())
    assert [bar.value for bar in bars] == sorted((bar.value for bar in bars), reverse=True)
    assert bars[0].length == 100.0
    shown = [text.strip() for text in made.page.texts["span"]]
    assert all(bar.label in shown for bar in bars)
    assert "sensitivity" not in made.model("int8.onnx").left_out


def test_layers_that_share_a_product_are_told_once() -> None:
    place = {"layers": ["a.attn.q", "a.attn.k", "a.attn.v"], "divergence": 1.0, "agreement": 1.0}
    other = {"layers": ["a.mlp", "b.mlp"], "divergence": 0.5, "agreement": 1.0}
    bars = harm_bars([place, other], ["a.attn.q", "a.attn.k", "a.attn.v"])
    assert [(bar.label, bar.kind) for bar in bars] == [
        ("a.attn.q, k, v", "raised"),
        ("a.mlp, b.mlp", "sparse"),
    ]


def test_pictures_tell_what_they_show(made: Reported) -> None:
    for name in (ODD, "swin.onnx", "int8.onnx"):
        model = made.model(name)
        assert len(model.pictures) == 4
        for picture in model.pictures:
            assert len(picture.tiles) == 1 + len(model.metadata.keep_counts)
            assert len(picture.classes) == 3
    alts = made.page.values_of("alt")
    counts = made.model("swin.onnx").metadata.keep_counts
    assert (
        f"image 1 after stage 2: {counts[1]} of 64 patches kept, the rest on the fast path" in alts
    )
    assert len(alts) == 3 * 4 * 4
    assert "base64" not in Path(made.report.json).read_text(encoding="utf-8")


def test_pictures_are_stored_small() -> None:
    """Flat ones as they are, photographs as JPEG; either way the same picture."""
    flat = np.zeros((224, 224, 3), dtype=np.uint8)
    flat[:80] = (200, 30, 30)
    photograph = synthetic_images(1, 224)[0]
    for pixels, kind, room in ((flat, "png", 0.0), (photograph, "jpeg", 12.0)):
        head, _, content = encode_picture(pixels).partition(",")
        assert head == f"data:image/{kind};base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), dtype=np.float64)
        assert np.abs(shown - pixels).mean() <= room
        assert len(content) < 100_000


def run_step(command: str, variables: dict[str, str]) -> object:
    """A command of the page as a shell runs it, in this process; its exit code."""
    words = shlex.split(command)
    assert words[0] == "dynexport"
    with pytest.raises(SystemExit) as left:
        main([variables.get(word, word) for word in words[1:]])
    return left.value.code


@pytest.mark.parametrize("name", [ODD, "int8.onnx", "swin.onnx", "whole.onnx"])
def test_commands_make_the_same_file_again(
    made: Reported, checkpoints: Path, folder: Path, name: str
) -> None:
    """Pasted with what they ask for set, they write the same bytes to the same place."""
    model = made.model(name)
    path = folder / name
    before, bundle = path.read_bytes(), ReferenceBundle.path_beside(path)
    family = "swin" if name == "swin.onnx" else "deit"
    variables = {
        "$CHECKPOINT": str(checkpoints / f"{family}.pth"),
        "$CALIBRATION": str(folder / "calibration.npz"),
    }
    steps = {step.does.partition(",")[0]: step.command for step in model.steps}
    assert ("what it was calibrated on" in steps) == (name == "int8.onnx")
    assert all(step.command in made.page.texts["code"] for step in model.steps)
    missing = not bundle.exists()
    try:
        assert run_step(steps["convert"], variables) == 0
        assert path.read_bytes() == before
        assert run_step(steps["verify"], {}) == 0
    finally:
        path.write_bytes(before)
        if missing:
            bundle.unlink()


def test_the_page_without_times(folder: Path, tmp_path: Path) -> None:
    """--no-bench, another place, images of the user's; and its own command makes it again."""
    shown = tmp_path / "shown here.npz"
    np.savez(shown, images=synthetic_images(2, 28))
    target = tmp_path / "new" / "page.html"
    report = write_report(folder, bench=False, images=shown, output=target)
    text = Page(target.read_text(encoding="utf-8")).texts["body"][0]
    deit, swin = (next(m for m in report.models if m.file == n) for n in (ODD, "swin.onnx"))
    assert deit.left_out["latency"] == "nothing was timed: --no-bench was given"
    assert deit.bench is None
    assert deit.pictures_of == f"2 of {shown}"
    assert len(deit.pictures) == 2
    assert "28 x 28: this model takes images of exactly 32 x 32" in swin.left_out["pictures"]
    assert "Nothing was timed." in text
    assert swin.ideal == swin.metadata.ideal_speedup
    (step,) = report.steps
    assert shlex.split(step.command)[1:] == [
        *("report", str(folder), "--images", str(shown), "-o", str(target), "--no-bench")
    ]
    assert (tmp_path / "new" / "page.json").exists()


def test_computed_ratios_are_written_short(folder: Path) -> None:
    """As the ratio the family makes them of, else as the shortest that keep as many tokens."""
    exported = read_exported(folder / ODD)
    ratios = power_schedule(0.7).ratios
    assert ratios[1] == 0.48999999999999994

    def convert_with(**changed: Any) -> str:
        metadata = replace(exported.metadata, **changed)
        steps = list_steps(replace(exported, metadata=metadata), (), None)
        return next(step.command for step in steps if step.does == "convert")

    assert " --ratio 0.7 " in convert_with(ratios=ratios)
    assert " --ratios 0.7,0.5,0.3 " in convert_with(ratios=(0.7, 0.5, 0.3))
    command = convert_with(ratios=ratios, family="of a plugin's")
    short = parse_ratios(shlex.split(command)[shlex.split(command).index("--ratios") + 1])
    tokens = exported.metadata.num_tokens
    assert short.counts(tokens) == KeepSchedule(ratios).counts(tokens)
    assert all(len(repr(ratio)) <= 5 for ratio in short.ratios)


def test_images_that_are_not_recorded_are_asked_for(checkpoints: Path, tmp_path: Path) -> None:
    checkpoint, target = checkpoints / "deit.pth", tmp_path / "deit.onnx"
    images = checkpoints / "calibration.npz"
    convert(Recipe(checkpoint, ratio=0.7, batch=2, images=images, output=target))
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    steps = list_steps(read_exported(target), (), None)
    asked = next(step for step in steps if step.command == "IMAGES=path/to/images")
    assert asked.does == "what the reference bundle was recorded on, 8 images"
    command = next(step.command for step in steps if step.does == "convert")
    assert run_step(command, {"$CHECKPOINT": str(checkpoint), "$IMAGES": str(images)}) == 0
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before


def test_a_folder_with_a_search_alone(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text('{"command": "dynexport convert a.pth --ratios 0.5"}')
    (tmp_path / "search-of-others.json").write_text("[]")
    with pytest.raises(
        InputError,
        match=r"only a search: search\.json found `dynexport convert a\.pth --ratios 0\.5`; run",
    ):
        write_report(tmp_path)


def test_the_heading_names_the_folder(
    made: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {".": tmp_path.name, "..": tmp_path.parent.name, "a/b": "a/b", "/": "/"}
    for folder, name in names.items():
        assert replace(made.report, folder=folder).name == name


def test_a_folder_without_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no ONNX file that `dynexport convert` wrote$"):
        write_report(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no ONNX")
    with pytest.raises(InputError, match=r"wrote; .*broken.onnx is not a complete ONNX file"):
        write_report(tmp_path)
    with pytest.raises(InputError, match=r"broken.onnx is no folder: give the folder"):
        write_report(tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="does not exist: give the folder"):
        write_report(tmp_path / "none")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]


def test_targets_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"page\.txt does not end in \.html"):
        write_report(folder, output=tmp_path / "page.txt")
    with pytest.raises(InputError, match=r"odd\.engine\.json would be overwritten"):
        write_report(folder, output=folder / "odd.engine.html")
    with pytest.raises(InputError, match="unknown backend 'onnx'"):
        write_report(folder, backend="onnx")


def test_without_jinja(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'jinja2>="):
        write_report(folder, output=tmp_path / "page.html")


def test_a_model_that_fails_is_told(checkpoints: Path, tmp_path: Path) -> None:
    """A wrong weight: the page says so, and the command still succeeds."""
    for name in ("deit.onnx", "deit.reference.npz"):
        shutil.copy(checkpoints / name, tmp_path)
    model = onnx.load(tmp_path / "deit.onnx")
    head = next(tensor for tensor in model.graph.initializer if tensor.dims[-1:] == [10])
    changed = onnx.numpy_helper.to_array(head) + np.float32(1.0)
    head.CopyFrom(onnx.numpy_helper.from_array(changed, head.name))
    onnx.save(model, tmp_path / "deit.onnx")
    report = write_report(tmp_path, bench=False)
    (only,) = report.models
    assert only.verification is not None
    assert not only.verification.passed
    body = Page(Path(report.html).read_text(encoding="utf-8")).texts["body"][0]
    assert "It failed verification." in body
    assert all(failure in body for failure in only.verification.failures)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("precision", lambda value: {**value, "int8": {**value["int8"], "ranking": [{}]}}),
        ("precision", lambda value: {**value, "int8": {**value["int8"], "raised": [1]}}),
        ("precision", lambda value: {**value, "int8": 7}),
        ("config", lambda value: {**value, "prune_at": 3}),
    ],
)
def test_damaged_metadata_is_told(
    folder: Path, tmp_path: Path, key: str, change: Callable[[Any], Any]
) -> None:
    model = onnx.load(folder / "int8.onnx")
    entry = next(one for one in model.metadata_props if one.key == f"dynexport.{key}")
    entry.value = json.dumps(change(json.loads(entry.value)))
    onnx.save(model, tmp_path / "int8.onnx")
    with pytest.raises(InputError, match=r"the dynexport metadata of .*int8.onnx is damaged"):
        write_report(tmp_path, bench=False)


def row(ratio: float, precision: str, latency: float, accuracy: float) -> Row:
    counts = (int(49 * ratio), int(49 * ratio**2))
    found = Measured(counts, 49, 10, 20, 999, latency, 14.0, 14.0 / latency, 0.9, accuracy)
    return Row(ratio, precision, 8, "settings", found)


def test_a_sweep_is_shown(tmp_path: Path) -> None:
    """A sweep alone makes a page: a dot a row, those that no other beats ringed."""
    rows = (
        row(0.5, "fp32", 5.0, 0.90),
        row(0.7, "fp32", 7.0, 0.95),
        row(0.7, "int8", 6.0, 0.96),
        Row(0.9, "int8", 8, "settings", None, "a layer <too> large"),
    )
    sweep = Sweep(
        checkpoint="ckpt & co.pth",
        folder=str(tmp_path),
        backend="onnxruntime",
        threads=None,
        images="digits.npz",
        labelled=True,
        dense_accuracy=0.98,
        rows=rows,
        front=find_best(rows),
        resumed=0,
        files=(),
        notes=(),
        seconds=1.0,
    )
    result = tmp_path / "sweep.json"
    result.write_text(json.dumps(asdict(sweep)))
    report = write_report(tmp_path)
    assert report.sweep == sweep
    text = Path(report.html).read_text(encoding="utf-8")
    page = Page(text)
    assert page.texts["p"][1].strip() == "A sweep of 4 configurations."
    assert page.texts["h2"] == ["Sweep of ckpt & co.pth", "Environment"]
    assert text.count('<circle class="ring"') == len(sweep.front) == 2
    assert len(page.texts["circle"]) == 3 + 2
    assert "ms a batch: dense median / speed-up" in page.texts["p"]
    assert "dense ms" in page.texts["th"]
    (cloud,), (panel,) = sweep_clouds(sweep), draw_panels(sweep)
    assert panel.dense is not None
    shown = [*cloud.dots, cloud.dense]
    for dot, mark in zip(shown, (*panel.marks, panel.dense), strict=True):
        assert dot is not None
        assert f"{mark.cost:.2f} ms, {mark.quality:.1%}" in dot.told
        assert f"<title>{dot.told}</title>" in text
    assert [tick.label for tick in cloud.latencies] == ["6", "8", "10", "12", "14"]
    assert [tick.label for tick in cloud.shares] == ["90 %", "92 %", "94 %", "96 %", "98 %"]
    assert "a layer <too> large" in page.texts["td"]
    with pytest.raises(InputError, match=r"sweep\.json would be overwritten"):
        write_report(tmp_path, output=tmp_path / "sweep.html")
    result.write_text(result.read_text()[:-9])
    with pytest.raises(InputError, match=r"sweep\.json is no complete result of a sweep"):
        write_report(tmp_path)


def test_the_command(checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("deit.onnx", "deit.reference.npz"):
        shutil.copy(checkpoints / name, tmp_path)
    assert (
        run_step(f"dynexport report {tmp_path} --rounds 1 --round-seconds 0.01 --json --quiet", {})
        == 0
    )
    out, err = capsys.readouterr()
    assert err == ""
    told = json.loads(out, parse_constant=pytest.fail)
    assert told == json.loads((tmp_path / "report.json").read_text())
    assert told["models"][0]["bench"]["speedup"] > 0
    assert run_step(f"dynexport report {tmp_path / 'none'}", {}) == 2
    assert "error:" in capsys.readouterr().err


def test_what_the_command_prints(made: Reported, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(made.report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "verified", "speed-up", "of", "ideal"]
    bench = made.model("swin.onnx").bench
    assert bench is not None
    assert ["swin.onnx", "yes", *("not", "settled") * 2] in [line.split() for line in lines]
    assert ["whole.onnx", "not", "known"] in [line.split() for line in lines]
    (engine,) = made.report.engines
    if engine.idle is not None:  # no GPU
        assert ["odd.engine", "not", "run"] in [line.split() for line in lines]
        assert any(line.startswith("not run odd.engine: ") for line in lines)
    assert sum(line.startswith("left out ") for line in lines) == len(made.report.strangers)
    assert lines[-2:] == [f"wrote {made.report.html}", f"      {made.report.json}"]


def test_families_that_need_no_plugin() -> None:
    from dynexport.models import registry

    assert set(registry._FAMILIES) >= set(BUILT_IN)
    for name, schedule in BUILT_IN.items():
        assert registry._FAMILIES[name].schedule is schedule
    modules = {family.config.__module__ for family in registry._FAMILIES.values()}
    built_in = {m for m in modules if m.startswith("dynexport.models.")}
    assert {m.rpartition(".")[2] for m in built_in} == set(BUILT_IN)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_stands_out(made: Reported, scheme: int) -> None:
    """Every colour of text on every ground it stands on: at least 4.5 to 1, in both schemes."""
    palettes = re.findall(r":root \{(.*?)\}", made.page.texts["style"][0], re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", palettes[scheme]))
    for ink in ("ink", "soft", "good", "bad"):
        for ground in ("paper", "card", "tint"):
            light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(made: Reported, browser: Browser, width: int, scheme: str) -> None:
    """Nothing is logged, nothing asked for, nothing sticks out, and the scheme is the reader's."""
    seen = browser.look(Path(made.report.html), width, 900, scheme)
    assert seen.errors == ()
    own = Path(made.report.html).absolute().as_uri()
    assert {url for url in seen.requests if not url.startswith("data:")} == {own}
    assert seen.width <= width
    assert seen.broken_pictures == 0
    ground, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in seen.colours)
    assert (ground > ink) == (scheme == "light")
