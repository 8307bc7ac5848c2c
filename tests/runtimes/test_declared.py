"""What runtimes declare, and where declarations are found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynexport.errors import InputError, MissingExtraError
from dynexport.files import declared_in, folders_of
from dynexport.runtimes import Library, Machine, find_runtime, libraries, runtimes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_their_order_is_that_of_help_and_completion() -> None:
    names = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "openvino-bf16")
    assert tuple(runtimes()) == names
    assert [name for name, each in runtimes().items() if each.on_gpu] == list(names[1:3])
    assert [name for name, each in runtimes().items() if each.compiles] == list(names[2:])
    assert {name: each.half for name, each in runtimes().items() if each.half != "computed"} == {
        "onnxruntime": "emulated",
        "openvino": "float32",
    }


def test_a_wrong_name_brings_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown backend 'openvin': did you mean 'openvino'"):
        find_runtime("openvin")


def test_each_library_is_brought_by_its_extra() -> None:
    names = [library.name for library in libraries()]
    assert names == ["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
    for library in libraries():
        required = [line.split(">=")[0] for line in PROJECT["optional-dependencies"][library.extra]]
        assert library.name in required
        assert library.name in library.packages


def test_a_library_without_an_extra_is_installed_by_its_name() -> None:
    library = Library("my-runtime", module="no_such_runtime")
    with pytest.raises(MissingExtraError, match=r"run  pip install 'my-runtime'$"):
        library.require()
    assert library.examine() == (None, ())
    assert library.packages == ("my-runtime",)
    use = library.judge(Machine(), ())
    assert (use.runs, use.builds, use.note) == (True, False, "runs models")


def test_a_folder_of_the_package_s_name_adds_to_it_and_a_copy_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the source tree would be, beside what is installed."""
    added, copy = tmp_path / "added" / "some" / "kinds", tmp_path / "copy" / "some" / "kinds"
    for folder in (added, copy):
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(folder.parents[1])
    (copy / "__init__.py").touch()
    assert folders_of("some.kinds", ["own"]) == ["own", str(added)]


def test_declarations_are_read_in_the_order_of_folders_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "kinds_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "b.py").write_text("KINDS = (3,)")
    (package / "a.py").write_text("KINDS = (1, 2)")
    (package / "helper.py").write_text("OTHER = (4,)")
    monkeypatch.syspath_prepend(tmp_path)
    assert declared_in(package.name, [str(package)], "KINDS") == [1, 2, 3]
