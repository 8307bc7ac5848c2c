"""Files written whole or not at all, and the sentences for files that cannot be used."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from dynexport.errors import InputError
from dynexport.files import (
    existing_file,
    require_kept,
    require_writable,
    save,
    sha256_of,
    written_whole,
)


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("folder", [".", "with spaces", "ünïcödé 模型", "new/and/deeper"])
def test_both_files_appear_with_their_content_and_nothing_else(tmp_path: Path, folder: str) -> None:
    first, second = tmp_path / folder / "a b.onnx", tmp_path / folder / "a b.npz"
    with written_whole(first, second) as drafts:
        for number, draft in enumerate(drafts):
            draft.write_bytes(b"%d" % number)
        assert not first.exists()
        assert not second.exists()
    assert (first.read_bytes(), second.read_bytes()) == (b"0", b"1")
    assert sorted(os.listdir(first.parent)) == ["a b.npz", "a b.onnx"]


def test_drafts_bear_the_names_of_their_targets_in_a_folder_beside_them(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.onnx", tmp_path / "a.npz") as drafts:
        assert [draft.name for draft in drafts] == ["a.onnx", "a.npz"]
        (folder,) = {draft.parent for draft in drafts}
        assert folder.parent == tmp_path
        assert folder.name.startswith(".")


def test_existing_files_are_replaced_together(tmp_path: Path) -> None:
    targets = tmp_path / "a", tmp_path / "b"
    for target in targets:
        target.write_bytes(b"old and longer than the new content")
    with written_whole(*targets) as drafts:
        for draft in drafts:
            draft.write_bytes(b"new")
    assert [target.read_bytes() for target in targets] == [b"new", b"new"]
    assert names_in(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("existed", [False, True])
def test_an_exception_leaves_everything_as_it_was(
    tmp_path: Path, trouble: type[BaseException], existed: bool
) -> None:
    targets = tmp_path / "a.onnx", tmp_path / "a.npz"
    if existed:
        for target in targets:
            target.write_bytes(b"old")
    before = names_in(tmp_path)

    def write_and_fail() -> None:
        with written_whole(*targets) as drafts:
            for draft in drafts:
                draft.write_bytes(b"half")
            raise trouble

    with pytest.raises(trouble):
        write_and_fail()
    assert names_in(tmp_path) == before
    assert all(target.read_bytes() == b"old" for target in targets if existed)


def test_an_exception_leaves_no_new_folder_behind(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with written_whole(tmp_path / "new" / "deep" / "a.onnx"):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        write_and_fail()
    assert names_in(tmp_path) == []


def test_a_new_file_has_the_permissions_any_new_file_has(tmp_path: Path) -> None:
    ordinary, written = tmp_path / "ordinary", tmp_path / "written"
    ordinary.touch()
    with written_whole(written):
        pass
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_a_target_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model.onnx"
    folder.mkdir()
    with (
        pytest.raises(InputError, match=r"model\.onnx is a folder: name a file to write"),
        written_whole(tmp_path / "first.npz", folder),
    ):
        pytest.fail("the block must not run")
    assert names_in(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("inside", ["x.onnx", "deeper/x.onnx"])
def test_a_parent_that_is_a_file_is_refused_and_left_alone(tmp_path: Path, inside: str) -> None:
    parent = tmp_path / "file"
    parent.write_bytes(b"mine")
    with (
        pytest.raises(
            InputError,
            match=r"^cannot write .* is a file, not a folder; .* with -o$",
        ),
        written_whole(parent / inside),
    ):
        pytest.fail("the block must not run")
    assert parent.read_bytes() == b"mine"
    assert names_in(tmp_path) == ["file"]


def test_a_name_longer_than_the_system_takes_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*too long"),
        written_whole(tmp_path / ("a" * 300)),
    ):
        pytest.fail("the block must not run")
    assert names_in(tmp_path) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(InputError, match=r"cannot write to .*Permission denied"),
            written_whole(tmp_path / "x"),
        ):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read anything")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o000)
    with pytest.raises(InputError, match="cannot be read: check its permissions"):
        existing_file(secret, "a file")


def test_an_existing_file_is_returned_as_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    path.touch()
    assert existing_file(str(path), "a file") == path


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (".", "is a folder: expected an ONNX file"),
        ("none", "none does not exist: expected an ONNX file"),
        ("none/none", "does not exist: expected an ONNX file"),
        pytest.param("a" * 300, "does not exist: expected an ONNX file"),
    ],
)
def test_what_is_no_file_is_refused_with_what_was_expected(
    tmp_path: Path, name: str, problem: str
) -> None:
    with pytest.raises(InputError) as found:
        existing_file(tmp_path / name, "an ONNX file")
    assert str(found.value).endswith(problem)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_sha256_is_that_of_the_whole_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """And so is a link to a link; the draft has the name's own suffix, which libraries go by."""
    blob, link, second = tmp_path / "store" / "blob", tmp_path / "a.png", tmp_path / "b.png"
    blob.parent.mkdir()
    blob.write_bytes(b"old")
    link.symlink_to("store/blob")
    second.symlink_to(link)
    with written_whole(second) as (draft,):
        assert (draft.parent.parent, draft.name) == (blob.parent, "b.png")
        draft.write_bytes(b"new")
    assert (blob.read_bytes(), link.is_symlink(), second.is_symlink()) == (b"new", True, True)
    assert names_in(tmp_path) == ["a.png", "b.png", "store", "store/blob"]


def test_a_link_to_what_is_not_there_yet_is_written_through(tmp_path: Path) -> None:
    link = tmp_path / "a.onnx"
    link.symlink_to("b.onnx")
    save(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "b.onnx").read_bytes() == b"new"


def test_a_link_that_cannot_be_written_through_says_why(tmp_path: Path) -> None:
    loop, lost, into_file = (tmp_path / name for name in ("loop.onnx", "lost.onnx", "file.onnx"))
    loop.symlink_to(loop.name)
    lost.symlink_to(tmp_path / "disk" / "b.onnx")
    (tmp_path / "note").write_bytes(b"")
    into_file.symlink_to(tmp_path / "note" / "b.onnx")
    for link, reason in (
        (loop, r"cannot write .*loop\.onnx: Too many levels of symbolic links"),
        (lost, r"lost\.onnx: it is a link to .*disk/b\.onnx, whose folder does not exist"),
        (into_file, r"file\.onnx: .*(Not a directory|note is a file)"),
    ):
        for attempt in (require_writable, lambda path: save(path, b"")):
            with pytest.raises(InputError, match=reason):
                attempt(link)
    require_kept([loop], lost)
    assert names_in(tmp_path) == ["file.onnx", "loop.onnx", "lost.onnx", "note"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_link_into_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "a.onnx"
    kept.mkdir()
    link.symlink_to(kept / "b.onnx")
    kept.chmod(0o500)
    with pytest.raises(InputError, match=r"a\.onnx: no permission to write in .*kept"):
        require_writable(link)


def test_a_link_to_a_file_that_is_read_is_refused(tmp_path: Path) -> None:
    source, link = tmp_path / "a.pth", tmp_path / "a.onnx"
    source.write_bytes(b"weights")
    link.symlink_to(source)
    with pytest.raises(InputError, match=r"a\.pth would be overwritten"):
        require_kept([source], link)
