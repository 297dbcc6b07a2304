"""Where log lines go: to journald with fields under systemd, else to standard error; repeats are held back.

journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) is one datagram of fields a line. What it does
not take goes to standard error with its priority before it (sd-daemon(3)), which is the journal too.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

JOURNAL = Path("/run/systemd/journal/socket")
FIELDS = ("sensor", "output", "mode", "release")
"""What ``extra`` of a log call may name; ``sensor`` becomes the journal's field MARRAM_SENSOR."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_WINDOW, _BURST, _KINDS = 600.0, 3, 256
_STANDARD_ERROR = 2
_NUMBER = re.compile(r"\d+")


def configure(level: str, device: str = "", program: str = "marram") -> None:
    """Set the root logger up, unless somebody has. device: MARRAM_DEVICE of every line in the journal."""
    handler: logging.Handler
    if goes_to_journal(os.environ.get("JOURNAL_STREAM", ""), _STANDARD_ERROR) and JOURNAL.exists():
        handler = JournalHandler(program, device)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(Quiet(handler))
    root.setLevel(level.upper())


def let_go() -> None:
    """Give up lines that cannot be written, as on a full disk: Python would end with status 120 for them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def goes_to_journal(stream: str, descriptor: int) -> bool:
    """Whether a descriptor is the journal's stream that JOURNAL_STREAM names ("device:inode")."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def priority(level: int) -> int:
    """syslog's, of a level of logging."""
    return (
        3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6 if level >= logging.INFO else 7
    )


class JournalHandler(logging.Handler):
    """Sends each record as one datagram."""

    def __init__(self, program: str, device: str, path: Path = JOURNAL) -> None:
        super().__init__()
        self._always = {"SYSLOG_IDENTIFIER": program, **({"MARRAM_DEVICE": device} if device else {})}
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)  # a journal that is behind must not hold the daemon up

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(priority(record.levelno)),
            "LOGGER": record.name,
            **self._always,
        }
        fields |= {
            f"MARRAM_{name.upper()}": str(value) for name in FIELDS if (value := getattr(record, name, ""))
        }
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in fields.items()), self._path)
        except OSError:
            lines = message.splitlines() or [""]
            try:
                sys.stderr.write("".join(f"<{priority(record.levelno)}>{line}\n" for line in lines))
            except OSError:
                self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


@dataclass
class Repeats:
    """Which lines are repeats: of one kind a few pass in a window of time, the others are counted. Pure."""

    window: float = _WINDOW
    burst: int = _BURST
    most: int = _KINDS
    _kinds: OrderedDict[object, _Kind] = field(default_factory=OrderedDict)

    def admit(self, kind: object, now: float) -> bool:
        """Whether a line of this kind passes."""
        one = self._kinds.get(kind)
        if one is None:
            one = self._kinds[kind] = _Kind(now)
        one.seen += 1
        return one.seen <= self.burst

    def ended(self, now: float, all_of_them: bool = False) -> list[tuple[object, int, float]]:
        """(kind, lines held back, s) of windows that are over, of all, or of some as there are too many."""
        over = []
        for kind, one in list(self._kinds.items()):
            old = not 0 <= now - one.since < self.window
            if old or all_of_them or len(self._kinds) > self.most:
                del self._kinds[kind]
                if one.seen > self.burst:
                    over.append((kind, one.seen - self.burst, max(0.0, now - one.since)))
        return over


@dataclass
class _Kind:
    since: float
    seen: int = 0


class Quiet(logging.Handler):
    """Hands on what is no repeat. Warnings of one logger are of a kind when only their numbers differ."""

    def __init__(self, inner: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._inner, self._clock = inner, clock
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        self._tell(self._repeats.ended(now))
        if record.levelno < logging.WARNING:
            self._inner.handle(record)
            return
        kind = (record.name, record.levelno, _NUMBER.sub("#", record.getMessage()))
        if self._repeats.admit(kind, now):
            self._inner.handle(record)

    def close(self) -> None:
        self._tell(self._repeats.ended(self._clock(), all_of_them=True))
        self._inner.close()
        super().close()

    def _tell(self, over: list[tuple[object, int, float]]) -> None:
        for kind, count, seconds in over:
            assert isinstance(kind, tuple)
            name, level, text = kind
            words = f"{count} more like this in {_span(seconds)}: {text}"
            self._inner.handle(logging.LogRecord(name, level, "", 0, words, None, None))


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
