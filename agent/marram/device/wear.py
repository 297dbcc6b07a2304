"""Bytes that this daemon and its children write to storage in a day, counted over restarts.

Source: /proc/self/io (proc(5)): ``write_bytes`` less ``cancelled_write_bytes``, children that have ended
included. Work in units of its own (marram-work@.service) is not in it. The count is kept in a small file that
is written once an hour and at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from marram.errors import StorageError
from marram.storage import replace_file

log = logging.getLogger(__name__)

_DAY = 86400
_SAVE_EVERY = 3600.0
_DAYS = 14


class Days(msgspec.Struct, frozen=True):
    """``wear.json``. days: bytes by day since the Unix epoch, the last two weeks."""

    days: dict[int, Annotated[int, msgspec.Meta(ge=0)]] = {}


def written_by_process(proc: Path = Path("/proc")) -> int:
    """Bytes that this process has written to storage since its start; 0 where the kernel does not tell."""
    facts = {}
    try:
        for line in (proc / "self/io").read_text().splitlines():
            name, _, value = line.partition(":")
            facts[name] = int(value)
    except (OSError, ValueError):
        return 0
    return max(0, facts.get("write_bytes", 0) - facts.get("cancelled_write_bytes", 0))


@dataclass
class Wear:
    """path: of ``wear.json``. total: bytes since the process began, ever growing."""

    path: Path
    total: Callable[[], int] = written_by_process
    _days: dict[int, int] = field(default_factory=dict)
    _counted: int = 0
    _saved: float = 0.0

    def __post_init__(self) -> None:
        try:
            self._days = dict(msgspec.json.decode(self.path.read_bytes(), type=Days).days)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._days = {}  # a count that is lost begins anew

    def look(self, now: float) -> int:
        """Count on; bytes of the day of ``now`` (Unix s, UTC)."""
        total, day = self.total(), int(now // _DAY)
        self._days[day] = self._days.get(day, 0) + max(0, total - self._counted)
        self._counted = max(total, self._counted)
        # A clock that was wrong may have left days that are to come.
        self._days = {one: count for one, count in self._days.items() if day - _DAYS < one <= day}
        if not 0 <= now - self._saved < _SAVE_EVERY:
            self.save(now)
        return self._days[day]

    def save(self, now: float) -> None:
        """Keep the count over a restart; what cannot be kept is counted anew."""
        self._saved = now
        try:
            replace_file(self.path, msgspec.json.encode(Days(self._days)))
        except StorageError as error:
            log.debug("%s", error)

    def days(self, now: float) -> dict[int, int]:
        """Bytes by how many days ago."""
        today = int(now // _DAY)
        return {today - day: count for day, count in sorted(self._days.items(), reverse=True)}
