"""The C++ program of the page on CPUs, compiled with ONNX Runtime's headers and run.

The library is that of the wheel that is installed. The wheel has no headers: they are the system's
(libonnxruntime-dev), or Debian's, fetched as a package and not installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from made.programs import FORMS, answer, write_form, write_pictures

from dynexport.conversion import Conversion

ROOT = Path(__file__).parents[2]
SYSTEM = (Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime"))
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE = f"""\
Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie
Components: main
Signed-By: {KEYRING}
"""
"""The first Debian that has the headers."""

pytestmark = pytest.mark.install


def find_headers(folder: Path) -> Path:
    """ONNX Runtime's, skipping the test where they cannot be had."""
    for place in SYSTEM:
        if (place / "onnxruntime_cxx_api.h").is_file():
            return place
    if shutil.which("apt-get") is None or not KEYRING.exists():
        pytest.skip("no headers of ONNX Runtime, and no Debian to fetch them from")
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (folder / name).mkdir(parents=True)
    (folder / "sources" / "trixie.sources").write_text(SOURCE)
    apart = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": folder / "sources",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    options = [f"-o{name}={value}" for name, value in apart.items()]
    for command in (["update", "-qq"], ["download", "-qq", "libonnxruntime-dev"]):
        done = run("apt-get", *options, *command, cwd=folder)
        if done.returncode:
            pytest.skip(f"Debian's package index cannot be reached: {done.stderr[:200]}")
    (package,) = folder.glob("libonnxruntime-dev_*.deb")
    assert run("dpkg", "-x", package, "unpacked", cwd=folder).returncode == 0
    return folder / "unpacked" / "usr" / "include" / "onnxruntime"


def run(*command: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Compiled without a warning."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ is installed")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    (tmp_path / "headers").mkdir()
    made = run(
        *("g++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror"),
        *(
            ROOT / "examples" / "cpp" / "classify.cpp",
            "-isystem",
            find_headers(tmp_path / "headers"),
        ),
        *(f"-L{tmp_path}", "-lonnxruntime", f"-Wl,-rpath,{tmp_path}", "-o", "classify"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    return tmp_path / "classify"


def test_it_answers_as_dynexport_does(
    program: Path, tiny_conversion: Conversion, tmp_path: Path
) -> None:
    """Every form in one test: the program is compiled once."""
    for number, name in enumerate(FORMS):
        folder = tmp_path / str(number)
        pictures = write_pictures(name, folder / "val", "ppm")
        write_form(name, tiny_conversion.onnx, folder / "model.onnx")
        done = run(program, "model.onnx", *(f"val/{file.name}" for file in pictures), cwd=folder)
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        expected = answer(folder / "model.onnx", folder / "val")
        assert [line[0] for line in lines] == [f"val/{file.name}" for file in pictures]
        assert [int(line[1]) for line in lines] == expected.argmax(axis=1).tolist()
        # resizing rounds: one level of 255 in some pixels
        found = [float(line[2]) for line in lines]
        np.testing.assert_allclose(found, expected.max(axis=1), atol=0.05 if number > 1 else 1e-4)
    for size in ("0 0", "-3 28", "99999999 99999999"):
        (folder / f"{size}.ppm").write_bytes(f"P6\n{size}\n255\n".encode())
    (folder / "short.ppm").write_bytes(b"P6\n64 31\n255\nabc")
    for words, problem in (
        *((("model.onnx", f"{size}.ppm"), "is empty or too large") for size in ("0 0", "-3 28")),
        (("model.onnx", "99999999 99999999.ppm"), "is empty or too large"),
        (("model.onnx", "short.ppm"), "short.ppm is cut short"),
        (("none.onnx", "val/0.ppm"), "none.onnx"),
        (("model.onnx", "model.onnx"), "model.onnx is no 8-bit PPM"),
        ((), "usage: classify MODEL.onnx PICTURE.ppm..."),
    ):
        done = run(program, *words, cwd=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert problem in done.stderr
