"""Log lines for journald, and the repeats that are held back."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram import logs
from marram.logs import JournalHandler, Quiet, Repeats, goes_to_journal

from tests.support.cli import marram


class Journal:
    """journald's socket."""

    def __init__(self, path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(5)

    def line(self) -> dict[str, str]:
        """The next datagram, decoded as the protocol's page says."""
        data, fields = self._socket.recv(1 << 20), {}
        while data:
            head, _, rest = data.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if not equals:
                size = struct.unpack("<Q", rest[:8])[0]
                value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
            fields[name.decode()], data = value.decode(), rest
        return fields


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "socket")


@pytest.fixture
def log():
    logger = logging.getLogger("test.logs")
    logger.propagate, before = False, logger.handlers
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers = before


def test_a_line_goes_to_the_journal_with_its_fields(journal, log):
    log.handlers = [JournalHandler("marram", "press-07", journal.path)]
    log.warning("sensor %s: %d", "watch", 3, extra={"sensor": "watch"})
    assert journal.line() == {
        "MESSAGE": "sensor watch: 3", "PRIORITY": "4", "LOGGER": "test.logs", "SYSLOG_IDENTIFIER": "marram",
        "MARRAM_DEVICE": "press-07", "MARRAM_SENSOR": "watch",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "priority"), [(10, "7"), (20, "6"), (30, "4"), (35, "4"), (40, "3"), (50, "3")]
)
def test_levels_are_syslogs_priorities(journal, log, level, priority):
    log.handlers = [JournalHandler("marram", "", journal.path)]
    log.log(level, "x")
    assert journal.line()["PRIORITY"] == priority


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_as_it_was(tmp_path_factory, text):
    journal = Journal(tmp_path_factory.mktemp("journal") / "socket")
    JournalHandler("marram", "", journal.path).handle(
        logging.makeLogRecord({"name": "x", "msg": text, "levelno": 20})
    )
    assert journal.line()["MESSAGE"] == text


@pytest.mark.parametrize("text", ["short", "two\nlines", "x" * (1 << 21)])
def test_what_the_journal_does_not_take_goes_to_standard_error_with_its_priority(
    tmp_path, log, monkeypatch, text
):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    log.handlers = [JournalHandler("marram", "", tmp_path / "nobody")]
    log.error(text)
    assert sys.stderr.getvalue() == "".join(f"<3>{line}\n" for line in text.splitlines())


def test_the_journal_is_used_only_where_standard_error_is_its_stream(tmp_path):
    with (tmp_path / "file").open("w") as file:
        status = os.fstat(file.fileno())
        assert goes_to_journal(f"{status.st_dev}:{status.st_ino}", file.fileno())
        assert not goes_to_journal(f"{status.st_dev}:{status.st_ino + 1}", file.fileno())
        assert not goes_to_journal("", file.fileno())
    assert not goes_to_journal("1:2", 9999)


# ---- repeats

events = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 900)), max_size=200)


@given(events, st.integers(1, 5), st.integers(1, 6))
def test_every_line_passes_or_is_counted_and_told_once(steps, burst, most):
    repeats, now, passed, told, windows = Repeats(600, burst, most), 0.0, {}, {}, {}

    def tell(over):
        for kind, count, _ in over:
            told[kind] = told.get(kind, 0) + count
            windows[kind] = 0

    for kind, later in steps:
        now += later
        tell(repeats.ended(now))
        if repeats.admit(kind, now):
            passed[kind] = passed.get(kind, 0) + 1
    tell(repeats.ended(now, all_of_them=True))
    for kind in "abcdefgh":
        assert passed.get(kind, 0) + told.get(kind, 0) == sum(one == kind for one, _ in steps)
    assert repeats.ended(now, all_of_them=True) == []


def test_within_a_window_no_more_than_the_burst_passes():
    repeats = Repeats(600, 3)
    assert [repeats.admit("a", float(second)) for second in range(5)] == [True] * 3 + [False] * 2
    assert repeats.admit("b", 5.0)
    assert repeats.ended(599.0) == []
    assert repeats.ended(600.0) == [("a", 2, 600.0)]
    assert repeats.admit("a", 600.0)


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def test_errors_that_differ_in_numbers_are_of_a_kind_and_news_are_never_held_back(log):
    lines, now = Lines(), [0.0]
    log.handlers = [Quiet(lines, lambda: now[0])]
    for number in range(415):
        log.error("output %d failed %d times", 0, number)
        log.info("news %d", number)
    log.error("something else")
    assert sum(line.startswith("INFO") for line in lines.lines) == 415
    assert [line for line in lines.lines if line.startswith("ERROR")] == [
        "ERROR output 0 failed 0 times", "ERROR output 0 failed 1 times", "ERROR output 0 failed 2 times",
        "ERROR something else",
    ]  # fmt: skip
    now[0] = 600.0
    log.info("later")
    assert lines.lines[-2:] == ["ERROR 412 more like this in 10 min: output # failed # times", "INFO later"]


def test_what_was_held_back_is_told_at_the_end(log):
    lines = Lines()
    quiet = Quiet(lines)
    log.handlers = [quiet]
    for _ in range(5):
        log.warning("again")
    quiet.close()
    assert lines.lines[-1].startswith("WARNING 2 more like this in 0 s: again")


def test_a_command_of_its_own_logs_to_standard_error_as_ever(tmp_path):
    (tmp_path / "marram.yaml").write_text("sensors: []\n")
    assert "marram.yaml" in marram("run", "-c", tmp_path / "marram.yaml").stderr
    assert logs.JOURNAL.is_absolute()


@pytest.mark.parametrize(("end", "status"), [("logs.let_go()", 0), ("pass", 120)])
def test_lines_that_a_full_disk_did_not_take_do_not_spoil_the_end(end: str, status: int) -> None:
    code = f"""
import sys
from marram import logs
for stream in (sys.stdout, sys.stderr):
    try:
        stream.write("a line\\n")
    except OSError:
        pass
{end}
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-E", "-c", code], stdout=full, stderr=full, timeout=60, check=False
        )
    assert done.returncode == status
