"""Rows on disk, which outlive a kill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynexport.errors import InputError
from dynexport.sweep.journal import identified, open_journal

pytestmark = pytest.mark.slow


def test_a_journal_keeps_whole_rows_and_drops_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    with open_journal(path, {"a": 1}, "do other") as journal:
        assert journal.rows == ()
        journal.append({"row": 1})
        journal.append({"row": 2})
    whole = path.read_bytes()
    for torn in (b"{", b'{"row": 3', b'{"row": 3}'):
        path.write_bytes(whole + torn)
        with open_journal(path, {"a": 1}, "do other") as journal:
            assert journal.rows == ({"row": 1}, {"row": 2})
            assert path.read_bytes() == whole
            journal.append({"row": 3})
        assert path.read_bytes() == whole + b'{"row": 3}\n'


def test_a_journal_of_something_else_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open_journal(path, {"on": identified("a.pth", "a" * 64), "cores": None, "b": (1,)}, "x"):
        pass
    with open_journal(path, {"on": identified("b.pth", "a" * 64), "cores": None, "b": (1,)}, "x"):
        pass  # renamed
    before = path.read_bytes()
    with (
        pytest.raises(
            InputError,
            match=r"on was a\.pth \(aaaaaaaa\) and is a\.pth \(bbbbbbbb\); cores was not given and "
            r"is 2; take another$",
        ),
        open_journal(
            path, {"on": identified("a.pth", "b" * 64), "cores": 2, "b": [1]}, "take another"
        ),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not say what its rows are of"),
        (b"[]\n", "line 1 of"),
        (b'{"format": 99, "of": {}}\n', "does not say what its rows are of"),
        (b'{"format": 1, "of": {}}\n\xff\n{}\n', "line 2 of"),
    ],
)
def test_a_damaged_journal_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem), open_journal(path, {}, "take another"):
        pass
    assert path.read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_journal_is_one_processes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with (
        open_journal(path, {}, "x"),
        pytest.raises(InputError, match="another process is writing to"),
        open_journal(path, {}, "x"),
    ):
        pass
