"""Bytes written in a day, over restarts, changes of the clock and damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.device.wear import Wear, written_by_process

from tests.support import trees

DAY = 86400.0


class Counter:
    """What the kernel counts for one process."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self) -> int:
        return self.total


def test_bytes_are_counted_by_the_day_and_kept_over_a_restart(tmp_path):
    path, first = tmp_path / "wear.json", Counter()
    wear = Wear(path, first)
    first.total = 100
    assert wear.look(10 * DAY) == 100
    first.total = 150
    assert wear.look(11 * DAY) == 50
    wear.save(11 * DAY)
    second = Counter()
    second.total = 7
    again = Wear(path, second)
    assert again.look(11 * DAY + 5) == 57
    assert again.days(11 * DAY) == {0: 57, 1: 100}


def test_the_file_is_written_once_an_hour_only(tmp_path):
    path, wear = tmp_path / "wear.json", Wear(tmp_path / "wear.json", Counter())
    written = set()
    for minute in range(120):
        wear.look(DAY + minute * 60)
        written.add(path.stat().st_mtime_ns)
    assert len(written) == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"days":{"x":1}}', b'{"days":{"1":-5}}', b"\xff" * 9])
def test_a_damaged_file_is_a_count_that_begins_anew(tmp_path, content):
    (tmp_path / "wear.json").write_bytes(content)
    counter = Counter()
    counter.total = 3
    assert Wear(tmp_path / "wear.json", counter).look(DAY) == 3


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert Wear(tmp_path / "file" / "wear.json", Counter()).look(DAY) == 0


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 60 * DAY)), max_size=40))
def test_no_day_to_come_and_none_that_is_long_over_is_kept_whatever_the_clock_does(tmp_path_factory, steps):
    counter = Counter()
    wear = Wear(tmp_path_factory.mktemp("wear") / "wear.json", counter)
    for more, now in steps:
        counter.total += more
        assert wear.look(now) >= more
        assert all(0 <= ago < 14 for ago in wear.days(now))


def test_the_kernels_count_is_what_reached_the_disk(tmp_path):
    trees.write(tmp_path, {"self/io": "rchar: 5\nwchar: 9\nwrite_bytes: 8192\ncancelled_write_bytes: 4096"})
    assert written_by_process(tmp_path) == 4096
    assert written_by_process(tmp_path / "nothing") == 0


def test_what_this_process_writes_is_counted_where_the_disk_is_real():
    before = written_by_process()
    path = Path(f"/var/tmp/marram-wear-{os.getpid()}")
    try:
        with path.open("wb") as file:
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        after = written_by_process()
    finally:
        path.unlink()
    if after == before:
        pytest.skip("this file system or kernel does not count")
    assert after - before >= 1 << 20
