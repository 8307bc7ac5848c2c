"""What the documentation says: its commands run and print what it shows, its messages exist, its
reference and its figures are current.

Links are followed by `make docs`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import dynexport
from dynexport.cli import app
from dynexport.conversion import Conversion
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # scripts beside each other, no package

from plain import PlainDeiT, export_plain  # noqa: E402

PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NEEDS_GPU = 'title="needs a GPU"'
"""The mark of a block, behind its language; nothing else keeps a command of ours from being run."""

NOT_OURS = frozenset(
    {"docker", "here", "alias", "apt-get", "nvpmodel", "jetson_clocks", ".", "g++", "./classify"}
)
"""Programs of others, which are not run; pip, make and python are looked at more closely."""

SHOWN = frozenset({"python", "text", "toml"})
"""Languages of blocks that hold no commands; Python is run apart."""

SHORTER = {
    "bench": "--rounds 1 --round-seconds 0.01 --no-pytorch",
    "report": "--no-bench",
    "sweep": "--rounds 1 --round-seconds 0.01",
}
"""Added where a command would measure for long, or wait for PyTorch in four processes."""

FEWER = (("--ratios", "0.7"), ("--max-drop", "50"))
"""In place of what a sweep is given, where that would have it convert many files."""

MEASURED = (
    (r"^(\S+ (?:sparse|dense))\s+[\d.\s]+$", r"\1"),  # a row of times
    (r"(speed-up over the dense twin) [\d.]+ x", r"\1 x"),
    (r"[\d.]+% of it$", "% of it"),
    (r"\bin [\d.]+ s$", "in s"),
    (r"((?:error|max|mean|divergence)) \d\.\de-\d\d", r"\1"),  # rounding, of this processor
    (r"\s+", " "),
)
"""What is another number on another day or machine, and what is left of it: times, rates, rounding.
All the rest, sizes, counts and accuracies among them, is compared as it stands."""


@dataclass(frozen=True)
class Block:
    """Code of a page: where it begins, its fence's language and mark, its lines."""

    page: str
    line: int
    language: str
    mark: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command; behind `$ ` in a console, each line elsewhere."""
        if self.language in SHOWN:
            return []
        lines = "\n".join(self.lines).replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]

    @property
    def answers(self) -> list[list[str]]:
        """Of a console, the lines that each command is shown to print."""
        shown = "\n".join(self.lines).split("\n$ ")
        return [lines.splitlines()[1:] for lines in shown]


def read_blocks(page: str) -> Iterator[Block]:
    """Fenced and indented code, in order."""
    lines = PAGES[page].read_text().splitlines()
    place = 0
    while place < len(lines):
        start, line = place, lines[place]
        place += 1
        if line.startswith("```"):
            language, _, mark = line[3:].partition(" ")
            while lines[place] != "```":
                place += 1
            yield Block(page, start + 1, language, mark, tuple(lines[start + 1 : place]))
            place += 1
        elif line.startswith("    "):
            while place < len(lines) and (lines[place].startswith("    ") or not lines[place]):
                place += 1
            inside = tuple(text[4:] for text in lines[start:place])
            yield Block(page, start + 1, "sh", "", inside)


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def is_run(block: Block) -> bool:
    """Whether something of a block is run by `test_what_a_page_shows_runs`."""
    ours = any(words[0] == "dynexport" for words in block.commands)
    return (ours or block.language == "python") and block.mark != NEEDS_GPU


RUN = list(dict.fromkeys(block.page for block in BLOCKS if is_run(block)))


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_conversion: Conversion
) -> Path:
    """A folder with what the pages take for granted: the demo's model and its test digits as they
    are, all else as small as it can be."""
    folder = tmp_path_factory.mktemp("pages")
    mnist = folder / "examples" / "mnist"
    mnist.mkdir(parents=True)
    for name in ("mnist-deit.pth", "test.npz"):
        shutil.copy(ROOT / "examples" / "mnist" / name, mnist)
    for path in (folder / "ckpt.pth", folder / "deit-s.pth", folder / "last.ckpt"):
        shutil.copy(tiny_checkpoint, path)
    content = torch.load(tiny_checkpoint, weights_only=False)
    torch.save({**content, "model_ema": content["model"]}, folder / "checkpoint.pth")
    (folder / "DIR").mkdir()
    for name in ("ckpt-0.7", "model", "DIR/model"):
        shutil.copy(tiny_conversion.onnx, folder / f"{name}.onnx")
        shutil.copy(tiny_conversion.reference, folder / f"{name}.reference.npz")
    with np.load(tiny_conversion.reference) as answered:
        known = {"images": answered["images"], "logits": answered["output:logits"]}
        np.savez(folder / "expect.npz", **known)
    shutil.copy(ROOT / "examples" / "evit" / "evit.py", folder / "my_family.py")
    Image.fromarray(np.full((28, 28, 3), 90, np.uint8)).save(folder / "photo.jpg")
    export_plain(PlainDeiT(load_demo(), (137, 96, 67)).eval(), 8, folder / "plain.onnx")
    with np.load(mnist / "test.npz") as test:
        order = np.argsort(test["labels"], kind="stable")[::41]  # some of each digit
        digits, labels = test["images"][order], test["labels"][order]
    np.savez(mnist / "calibration.npz", images=digits, labels=labels)
    for number, (digit, label) in enumerate(zip(digits, labels, strict=True)):
        for place in (folder / "images", folder / "train", folder / "val" / str(label)):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digit).save(place / f"{number}.png")
    return folder


def load_demo() -> nn.Module:
    loaded = load_checkpoint(ROOT / "examples" / "mnist" / "mnist-deit.pth")
    return build_model(loaded, *identify(loaded))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom, as a reader would, in one folder."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared.parent / "cache"))  # of all pages
    for block in filter(is_run, read_blocks(page)):
        if block.language == "python":
            exec(compile("\n".join(block.lines), str(block), "exec"), {})
        shown = block.answers if block.language == "console" else [[]] * len(block.commands)
        for words, lines in zip(block.commands, shown, strict=True):
            if words[0] == "dynexport":
                printed = run_command(block, words[1:], lines)
                assert not lines or compared(printed) == compared(lines), (str(block), words)


def run_command(block: Block, words: list[str], shown: list[str]) -> list[str]:
    """What it prints; it measures no longer than it must for what is shown."""
    shorter = SHORTER.get(words[0], "")
    if words[0] == "sweep":
        shorter += "".join(f" {option} {few}" for option, few in FEWER if option in words)
    if any(line.startswith("pytorch ") for line in shown):
        shorter = shorter.replace("--no-pytorch", "")
    done = CliRunner().invoke(app, [*words, *shorter.split()])
    assert done.exit_code == 0, (str(block), words, done.output, done.exception)
    return done.stdout.splitlines()


def compared(lines: list[str]) -> list[str]:
    """Lines without what is measured, and without empty ones."""
    for pattern, left in MEASURED:
        lines = [re.sub(pattern, left, line).strip() for line in lines]
    return [line for line in lines if line]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_is_known(block: Block) -> None:
    """A command is ours and has the options it is given, or is known as somebody else's."""
    assert block.mark in ("", NEEDS_GPU) or re.fullmatch(r'title="[\w/]+\.py"', block.mark)
    assert block.language in SHOWN | {"sh", "console"}
    for words in block.commands:
        program, *rest = words[1:] if words[0] == "sudo" else words
        if program == "dynexport":
            require_options(rest)
        elif program == "pip":
            require_extras(rest)
        elif program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.M), words
        elif program in ("python", "python3"):
            assert rest[0] == "-m" or (ROOT / rest[0]).is_file(), words
        else:
            assert program in NOT_OURS or (ROOT / program).is_file(), (str(block), words)
        if program in ("docker", "here") and rest[0] not in ("build", "buildx"):
            image = next(place for place, word in enumerate(rest) if word.startswith("dynexport"))
            require_options(rest[image + 1 :])


def require_options(words: list[str]) -> None:
    """Parsed to the end, run not at all: `--help` comes first whatever stands before it."""
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, (words, done.output)
    assert words[0] in done.output


def require_extras(words: list[str]) -> None:
    named = re.findall(r"(?:dynexport|\.|\.whl)\[([\w,]+)\]", " ".join(words))
    extras = [extra for names in named for extra in names.split(",")]
    assert set(extras) <= set(PROJECT["optional-dependencies"]), words


def texts() -> Iterator[str]:
    """Every text in the code, with … for what is put in."""
    for folder in ("dynexport", "models", "calibration"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        str(part.value) if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                    yield re.sub("…+", "…", "".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def sentences() -> Iterator[str]:
    """Texts without backquotes, and as the command line has them, a parameter as its option."""
    for text in texts():
        yield text.replace("`", "")
        flags = re.sub(r"`(\w+)=False`", r"`no_\1`", text)
        yield re.sub(r"`([\w…]+)`", lambda name: "--" + name[1].replace("_", "-"), flags)


def test_every_message_is_in_the_code() -> None:
    quoted = re.findall(r"^### `(.*)`$", PAGES["troubleshooting.md"].read_text(), re.M)
    assert len(quoted) > 50
    known = list(sentences())
    lost = [message for message in quoted if not any(message in text for text in known)]
    assert not lost


def load_hook(name: str) -> ModuleType:
    path = ROOT / "docs" / "hooks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_command_line_is_current() -> None:
    written = load_hook("cli_reference").describe_commands()
    assert PAGES["cli.md"].read_text() == written, "run  make docs"


def test_the_reference_of_python_is_current() -> None:
    written = load_hook("api_reference").describe_names()
    assert PAGES["api.md"].read_text() == written, "run  make docs"
    assert set(re.findall(r"^## (\w+)$", written, re.M)) == set(dynexport.__all__)


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(set(PAGES) - {"README.md"})


FIGURES = load_hook("figures")


@pytest.mark.parametrize("page", FIGURES.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_those_of_the_records(page: Path) -> None:
    assert page.read_text() == FIGURES.write_figures(page.read_text()), "run  make docs"


def test_no_page_marks_a_figure_that_is_not_written() -> None:
    marked = [path for path in PAGES.values() if "<!-- figure" in path.read_text()]
    assert set(marked) <= set(FIGURES.PAGES)
    for path in FIGURES.PAGES:  # a line that begins with a comment would end its paragraph
        assert not re.search(r"^<!-- figure:", path.read_text(), re.M), path


@pytest.mark.parametrize("page", ["README.md", "precision.md", "sweep.md", "quick-start.md"])
def test_no_accuracy_and_no_size_is_written_by_hand(page: str) -> None:
    """They are taken from records, or stand in what a command is shown to print, which is run."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(), flags=re.M | re.S)
    text = FIGURES.IN_LINE.sub("", FIGURES.MARKED.sub("", text))
    by_hand = re.findall(r"(?:\d{2}\.\d+ ?%|[\d.]+ [KMG]B|\d in 1,000)", text)
    assert by_hand == (["1.9 GB"] if page == "quick-start.md" else [])  # of `make demo`


def test_every_option_is_in_the_reference() -> None:
    helps = "".join(
        CliRunner().invoke(app, [command.callback.__name__, "--help"]).output
        for command in app.registered_commands
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", helps)) - {"--help"}
    assert len(options) > 40
    assert not [option for option in options if option not in PAGES["cli.md"].read_text()]


def test_the_parts_are_those_that_a_test_orders() -> None:
    """The page on the layout lists what `tests/project/test_packaging.py` holds the imports to."""
    source = ast.parse((ROOT / "tests" / "project" / "test_packaging.py").read_text())
    (layers,) = (
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    page = PAGES["layout.md"].read_text().partition("## Who imports whom")[2]
    rows = re.findall(r"^\| (`.*?) \|", page.partition("\n## ")[0], re.M)
    assert [row.replace("`", "").replace(",", "") for row in rows] == list(layers)


def test_the_glossary_is_in_order() -> None:
    terms = re.findall(r"^\| ([\w ]+) \| ", PAGES["glossary.md"].read_text(), re.M)[1:]
    assert len(terms) > 20
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_elsewhere_are_well_formed(page: str) -> None:
    """Whether anybody answers there is not asked: tests use no network."""
    for address in re.findall(r"\]\((\w+:[^)]*)\)", PAGES[page].read_text()):
        assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[\w./%#?=&-]*)?", address), address
