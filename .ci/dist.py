"""Builds the source archive and the wheel into dist/, and tries each as a user gets it: in a new
virtual environment, outside the source tree, with the core dependencies alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"dynexport": "", "models": "models", "calibration": "calibration"}
"""Of the source tree -> of the installed package."""

NEEDS_EXTRA = "error: torch is not installed, and this step needs it: run  pip install 'torch>="


def main() -> None:
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT, cwd=dist.parent)
    archives = sorted(dist.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *archives, cwd=ROOT)
    for archive in archives:
        with tempfile.TemporaryDirectory() as folder:
            try_archive(archive, Path(folder))
        print(f"{archive.name}: installs and runs", flush=True)


def try_archive(archive: Path, folder: Path) -> None:
    """Install an archive into ``folder`` and use it from there."""
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    binaries = folder / "venv" / "bin"
    python, dynexport = binaries / "python", binaries / "dynexport"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-compile", archive, cwd=folder)
    version = run(dynexport, "--version", cwd=folder).splitlines()[0].split()
    expect(version == ["dynexport", archive.name.split("-")[1].removesuffix(".tar.gz")], version)
    for help_of in ((dynexport,), (python, "-m", "dynexport")):
        told = run(*help_of, "--help", cwd=folder)
        expect(told.startswith("Usage: dynexport ") and "  convert " in told, told)
    home = run(python, "-c", "import dynexport; print(*dynexport.__path__)", cwd=folder).strip()
    expect(Path(home).is_relative_to(folder.resolve()), home)
    missing = sorted(name for name in data_files() if not (Path(home) / name).is_file())
    expect("py.typed" in data_files() and not missing, missing)
    refused = run(dynexport, "convert", "weights.pth", cwd=folder, code=2)
    expect(refused.splitlines()[-1].startswith(NEEDS_EXTRA), refused)


def data_files() -> set[str]:
    """Files of the package that are not Python, relative to where it is installed."""
    return {
        (Path(inside) / path.relative_to(ROOT / folder)).as_posix()
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def run(*command: object, cwd: Path, code: int = 0) -> str:
    """What a command prints, stdout and stderr; it must exit with ``code``."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    shown = " ".join(map(str, command))
    expect(done.returncode == code, f"{shown} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


def expect(condition: bool, found: object) -> None:
    if not condition:
        sys.exit(f"not as it should be: {found}")


if __name__ == "__main__":
    main()
