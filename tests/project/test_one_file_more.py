"""A runtime is one file, and so are a precision and a task: a dozen lines each, on the search path.

They lie in tests/made/extra/dynexport/; nothing else of the package or the tests knows of them, but
for the family beside them, which gives what the task is for. The command line runs in processes of
its own, which find them by PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dynexport import Recipe, sweep_checkpoint, verify_model
from dynexport.errors import InputError
from dynexport.formats.onnx_file import read_metadata
from dynexport.precision import precisions
from dynexport.runtimes import runtimes
from dynexport.tasks import describe_outputs, task_of, tasks

pytestmark = pytest.mark.slow

EXTRA = Path(__file__).parents[1] / "made" / "extra"


def dynexport(folder: Path, *arguments: object, **settings: str) -> str:
    """What the command line prints with the three files on its search path."""
    done = subprocess.run(
        [sys.executable, "-m", "dynexport", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(EXTRA), "OMP_NUM_THREADS": "1", **settings},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def converted(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in the toy precision."""
    folder = tmp_path_factory.mktemp("toy")
    arguments = ("--precision", "toy", "--batch", 2, "--json", "-q")
    found = json.loads(dynexport(folder, "convert", tiny_checkpoint, "-o", "t.onnx", *arguments))
    assert found["precision"]["name"] == "toy"
    assert found["verification"]["precision"] == "toy"
    assert found["verification"]["passed"]
    return folder / "t.onnx"


def test_they_are_known_only_where_they_are_found() -> None:
    assert "toy" not in runtimes()
    assert "toy" not in precisions()
    assert "toy" not in tasks()


def test_the_page_shows_these_files() -> None:
    root = EXTRA.parents[2]
    page = (root / "docs" / "adding-a-runtime-precision-rule-task.md").read_text()
    for name in ("runtimes/toy.py", "precision/toy.py", "tasks/toy.py"):
        code = (EXTRA / "dynexport" / name).read_text()
        assert f'```python title="dynexport/{name}"\n{code}```\n' in page


def test_help_and_completion_list_them(tmp_path: Path) -> None:
    for command in ("verify", "bench", "sweep"):
        assert "openvino-bf16 or toy" in " ".join(dynexport(tmp_path, command, "--help").split())
    for command in ("convert", "sweep"):
        assert "toy" in dynexport(tmp_path, command, "--help")
    convert = " ".join(dynexport(tmp_path, "convert", "--help").replace("│", " ").split())
    assert "toy (a vector of each image)" in convert
    for typed in (
        *("verify m.onnx --backend t", "bench --backend t"),
        *("convert --precision t", "convert --task t"),
    ):
        words = f"dynexport {typed}"
        settings = {
            "_DYNEXPORT_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        assert dynexport(tmp_path, **settings).split() == ["toy"]


def test_a_wrong_name_is_told_theirs(tmp_path: Path) -> None:
    for option in ("--backend", "--precision"):
        arguments = ["sweep", "x.pth", "--ratios", "0.7", option, "toyy"]
        with pytest.raises(AssertionError, match="did you mean 'toy'"):
            dynexport(tmp_path, *arguments)


def test_doctor_examines_the_library(tmp_path: Path) -> None:
    found = json.loads(dynexport(tmp_path, "doctor", "--json", "-q"))
    (toy,) = (runtime for runtime in found["runtimes"] if runtime["name"] == "toy")
    assert (toy["state"], toy["runs"], toy["builds"]) == ("ready", True, False)
    assert toy["note"] == "runs models in Python"
    assert "toy" in next(c for c in found["commands"] if c["name"] == "verify")["runtimes"]


def test_verify_and_bench_run_in_it(converted: Path) -> None:
    arguments = (converted, "--backend", "toy", "--json", "-q")
    found = json.loads(dynexport(converted.parent, "verify", *arguments))
    assert (found["passed"], found["backend"], found["precision"]) == (True, "toy", "toy")
    few = ("--rounds", 1, "--round-seconds", 0.01, "--no-pytorch")
    timed = json.loads(dynexport(converted.parent, "bench", *arguments, *few))
    labels = [timing["label"] for timing in timed["batches"][0]["timings"]]
    assert labels == ["toy sparse", "toy dense"]


def test_sweep_makes_files_of_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--ratios", "0.7", "--precision", "toy", "--backend", "toy", "--batch", 2)
    few = ("--data-images", 2, "--rounds", 1, "--round-seconds", 0.01, "--json", "-q")
    swept = json.loads(dynexport(tmp_path, "sweep", tiny_checkpoint, *arguments, *few))
    assert [(row["precision"], row["failure"]) for row in swept["rows"]] == [("toy", "")]
    assert swept["backend"] == "toy"


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "dynexport" / "runtimes" / "broken.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("import no_such_package")
    words = f"^error: dynexport.runtimes.broken, in {broken.parent}, cannot be imported: .*no_such"
    with pytest.raises(AssertionError, match=words):
        dynexport(tmp_path, "--version", PYTHONPATH=str(tmp_path))


@pytest.fixture(scope="module")
def vectors(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint for the toy task, under the name that it gets by itself."""
    folder = tmp_path_factory.mktemp("vectors")
    family = ("--plugin", EXTRA / "toy_family.py")
    arguments = ("--ratio", 0.7, "--task", "toy", "--batch", 2, *family, "--json", "-q")
    found = json.loads(dynexport(folder, "convert", tiny_checkpoint, *arguments))
    assert found["verification"]["passed"]
    assert list(found["verification"]["errors"]) == ["embedding"]
    return folder / "tiny-toy-0.7.onnx"


def test_outputs_of_a_task_without_classes_are_judged_by_no_class(vectors: Path) -> None:
    found = json.loads(dynexport(vectors.parent, "verify", vectors, "--json", "-q"))
    assert found["passed"]
    assert found["agreement"]["embedding"]["cosine"] > 0.999
    assert found["agreement"]["embedding"]["top1"] is None
    assert found["agreement"]["embedding"]["kl"] is None


def test_what_takes_classes_says_what_the_task_gives(vectors: Path, tmp_path: Path) -> None:
    shutil.copytree(vectors.parent, tmp_path, dirs_exist_ok=True)
    Image.new("RGB", (28, 28)).save(tmp_path / "photo.png")
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(AssertionError, match=r"gives vectors \(embedding\): leave --data"):
        dynexport(tmp_path, "verify", vectors.name, "--data", ".")
    with pytest.raises(AssertionError, match=r"gives vectors \(embedding\): leave --labels"):
        dynexport(tmp_path, "visualize", vectors.name, "photo.png", "--labels", "names.txt")
    dynexport(tmp_path, "visualize", vectors.name, "photo.png", "-o", "seen.png")
    with pytest.raises(InputError, match="unknown task 'toy'"):
        sweep_checkpoint(Recipe("x.pth", task="toy"), "0.7")


def test_a_report_says_how_to_make_it_again(vectors: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dynexport.report.gather import read_exported\n"
        "from dynexport.report.steps import rebuild_recipe\n"
        "print(rebuild_recipe(read_exported(Path(sys.argv[1]))).task)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, vectors],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXTRA)},
        check=False,
    )
    assert done.stdout == "toy\n", done.stderr


def test_a_file_for_a_task_that_is_not_declared_is_read_by_its_outputs(vectors: Path) -> None:
    metadata = read_metadata(vectors)
    assert task_of(metadata.outputs) is None
    assert describe_outputs(metadata.outputs) == "outputs of its own (embedding)"
    assert verify_model(vectors).agreement["embedding"].top1 == 1.0  # its shape is that of logits
