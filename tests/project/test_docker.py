"""The Dockerfile and its script, as far as they can be judged without building an image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import dynexport

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "build-cpu-without-engine.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON = {"cpu": "3.11", "server": "3.12", "jetson": "3.10"}
"""Of each base."""


class Instruction(NamedTuple):
    """A line of a Dockerfile with its continuations, and the stage it belongs to."""

    stage: str
    name: str
    words: str


def read_dockerfile() -> list[Instruction]:
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not re.match(r"\s*#", line)]
    instructions, stage = [], ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, words = line.split(maxsplit=1)
        if name == "FROM":
            stage = words.split(" AS ")[1]
        instructions.append(Instruction(stage, name, " ".join(words.split())))
    return instructions


DOCKERFILE = read_dockerfile()
ARGUMENTS = dict(i.words.split("=", 1) for i in DOCKERFILE if i.name == "ARG" and not i.stage)
RUNS = [i.words for i in DOCKERFILE if i.name == "RUN"]


def find(name: str, stage: str) -> list[str]:
    return [i.words for i in DOCKERFILE if (i.name, i.stage) == (name, stage)]


def find_tool(name: str) -> str:
    """A linter beside this Python or on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=path) or pytest.skip(f"{name} is not installed")


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([find_tool("hadolint"), ROOT / "Dockerfile"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
    assert "hadolint" not in (ROOT / "Dockerfile").read_text()  # no rule is ignored there


def test_a_build_argument_chooses_among_three_pinned_bases() -> None:
    assert ARGUMENTS["BASE"] == "cpu"
    for base in PYTHON:
        assert find("FROM", base) == [f"${{{base.upper()}_IMAGE}} AS {base}"]
        name, tag = ARGUMENTS[f"{base.upper()}_IMAGE"].rsplit(":", 1)
        assert re.search(r"\d+\.\d+", tag), f"{name}:{tag} floats"
    assert find("FROM", "environment") == ["${BASE} AS environment"]
    assert find("FROM", "image") == ["${BASE} AS image"]
    assert DOCKERFILE[-1].stage == "image"  # what is built when no target is named


def test_who_runs_what_where() -> None:
    (user,) = find("USER", "image")
    assert int(user) > 0
    names = [i.name for i in DOCKERFILE if i.stage == "image"]
    assert "RUN" not in names[names.index("USER") :]
    assert find("WORKDIR", "image") == find("VOLUME", "image") == ["/work"]
    assert find("ENTRYPOINT", "image") == ['["dynexport"]']
    (check,) = find("HEALTHCHECK", "image")
    assert check.endswith('CMD ["dynexport", "doctor"]')


def test_labels() -> None:
    (labels,) = find("LABEL", "image")
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert found["title"] == PROJECT["name"]
    assert found["version"] == dynexport.__version__
    assert found["licenses"] == PROJECT["license"]


def test_every_pip_is_pinned_and_leaves_no_cache() -> None:
    calls = [call for run in RUNS for call in run.split("&&") if re.search(r"/pip (in|wh)", call)]
    assert len(calls) == 5
    for call in calls:
        assert "--no-cache-dir" in call
        assert re.search(r"-c /?requirements\.txt|--no-deps .*(==[\d.]+|\.whl| \.)$", call.strip())
        assert "wheel" not in call or "--no-build-isolation" in call or "--no-index" in call


def test_every_apt_package_is_pinned_and_leaves_no_lists() -> None:
    calls = [run for run in RUNS if "apt-get install" in run]
    for call in calls:
        packages = re.search(r"--no-install-recommends ([^&]*)", call)
        assert packages
        assert all("=" in package for package in packages[1].split())
        assert call.endswith("rm -rf /var/lib/apt/lists/*")


def list_needs(base: str) -> list[Requirement]:
    """What the image installs of the index, apart from what that needs in turn."""
    (line,) = find("ENV", base)
    left = line.removeprefix("DYNEXPORT_EXTRAS=").strip('"').split()
    needs = [Requirement(need) for need in PROJECT["dependencies"]]
    while left:
        found = [Requirement(need) for need in PROJECT["optional-dependencies"][left.pop()]]
        needs += [need for need in found if need.name != PROJECT["name"]]
        left += [extra for need in found if need.name == PROJECT["name"] for extra in need.extras]
    return needs


def read_pins(python: str) -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    valid = [p for p in pins if not p.marker or p.marker.evaluate({"python_version": python})]
    return {pin.name: pin for pin in valid}


@pytest.mark.parametrize("base", PYTHON)
def test_requirements_pin_what_the_image_installs(base: str) -> None:
    pins = read_pins(PYTHON[base])
    for need in list_needs(base):
        (version,) = pins[need.name].specifier
        assert version.operator == "=="
        assert need.specifier.contains(version.version)


def test_the_device_side_has_no_pytorch_and_the_tensorrt_of_its_base() -> None:
    assert {"torch", "tensorrt-rtx"} <= {need.name for need in list_needs("cpu")}
    for base in ("server", "jetson"):
        names = {need.name for need in list_needs(base)}
        assert "cuda-python" in names
        assert not names & {"torch", "tensorrt", "tensorrt-rtx"}


def test_cuda_python_fits_the_driver_of_jetpack_6() -> None:
    """cuEventElapsedTime of cuda-python 13 asks for what drivers before CUDA 12.8 do not have."""
    pin = read_pins(PYTHON["jetson"])["cuda-python"]
    assert str(pin.specifier).startswith("==12."), f"JetPack 6 has CUDA 12.6, not for {pin}"


def test_the_builder_is_sent_what_is_copied_and_no_more() -> None:
    copied = [
        source
        for i in DOCKERFILE
        if i.name == "COPY" and not i.words.startswith("--from")
        for source in i.words.split()[:-1]
    ]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == set(copied)
    assert all((ROOT / source).exists() for source in copied)


def test_lists_of_needs(tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("it runs on the Python of the image")
    program = ROOT / "docker" / "dependencies.py"
    command = [sys.executable, program, ROOT / "pyproject.toml", tmp_path / "needs"]
    subprocess.run(command, check=True)
    lists = {path.stem: path.read_text().split("\n")[:-1] for path in tmp_path.rglob("*.txt")}
    extras = PROJECT["optional-dependencies"]
    assert lists.keys() == {"core", *extras}
    assert lists["core"] == PROJECT["dependencies"]
    assert lists["cuda"] == extras["cuda"]
    others = [need for need in extras["rtx"] if not need.startswith("dynexport")]
    assert sorted(lists["rtx"]) == sorted(["-r cuda.txt", *others])


def run_script(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash") or pytest.skip("there is no bash")
    environment = os.environ | ({"PATH": str(path)} if path else {})
    return subprocess.run(
        [bash, SCRIPT, *arguments], env=environment, capture_output=True, text=True
    )


def test_the_script_is_sound() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert "set -euo pipefail" in SCRIPT.read_text()
    subprocess.run([find_tool("bash"), "-n", SCRIPT], check=True)


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([find_tool("shellcheck"), SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_script_says_what_it_takes_and_what_is_missing(tmp_path: Path) -> None:
    unknown = run_script("--engine")
    assert (unknown.returncode, unknown.stderr) == (
        2,
        "build-cpu-without-engine.sh: there is no option --engine; see --help\n",
    )
    bare = run_script(path=tmp_path)
    assert bare.returncode == 2
    assert "apt-get install --no-install-recommends buildah debootstrap" in bare.stderr
    usage = run_script("--help")
    assert usage.returncode == 0
    assert "--storage DIR" in usage.stdout
