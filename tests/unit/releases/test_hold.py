"""The operator's word: held, or outside of the hours."""

from __future__ import annotations

from pathlib import Path

import pytest
from marram.errors import StorageError
from marram.releases.hold import Hold, waits_for


def test_a_hold_says_why_until_it_is_lifted(tmp_path: Path) -> None:
    hold = Hold(tmp_path / "state" / "hold")
    assert (hold.reason(), waits_for(hold, (), 0)) == (None, "")
    hold.set("stock-taking")
    assert hold.reason() == "stock-taking"
    assert "stock-taking" in waits_for(hold, (), 0)
    assert hold.lift()
    assert not hold.lift()
    assert hold.reason() is None


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_file_of_whatever_content_holds(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hold"
    path.write_bytes(content)
    assert Hold(path).reason()


def test_something_that_is_no_file_holds_and_cannot_be_lifted(tmp_path: Path) -> None:
    (tmp_path / "hold").mkdir()
    assert Hold(tmp_path / "hold").reason() == "held"
    with pytest.raises(StorageError):
        Hold(tmp_path / "hold").lift()


@pytest.mark.parametrize(
    ("minute", "may"),
    [(0, True), (299, True), (300, False), (719, False), (720, True), (780, False), (1380, True)],
)
def test_hours(tmp_path: Path, minute: int, may: bool) -> None:
    waits = waits_for(Hold(tmp_path / "hold"), ("22:00-05:00", "12:00-13:00"), minute)
    assert (waits == "") == may
    if not may:
        assert "22:00-05:00 and 12:00-13:00" in waits
