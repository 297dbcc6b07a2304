"""Has a delta waited long for the aggregator's receipt?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from marram.doctor.finding import Finding, error, ok, warning
from marram.doctor.machine import Machine

_LONG = 86400.0


def check(machine: Machine) -> Iterator[Finding]:
    path = machine.state / "journal.db"
    if not path.exists():
        return
    try:
        waiting = _waiting(str(path))
    except sqlite3.Error as problem:
        yield error(
            "outbox", f"{path} cannot be read: {problem}", "the agent puts a damaged one aside at its start"
        )
        return
    if not waiting:
        yield ok("outbox", "empty: the aggregator has every delta")
        return
    written = max(one.stat().st_mtime for one in (path, Path(f"{path}-wal")) if one.exists())
    age = max(0.0, machine.now - written)
    rounds = ", ".join(str(number) for number in waiting)
    if age > _LONG:
        yield warning(
            "outbox",
            f"the delta of round {rounds} waits, and nothing was written for {age / 86400:.1f} days",
            "see the broker below; the delta is sent by itself when the link is back",
        )
    else:
        yield ok("outbox", f"the delta of round {rounds} waits for its receipt")


def _waiting(path: str) -> list[int]:
    """Rounds whose deltas are not receipted, read without touching the file."""
    # Without a log nobody writes. SQLite then makes no files beside it, which might not be the agent's.
    how = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    with closing(sqlite3.connect(f"file:{quote(path)}?{how}", uri=True, timeout=5)) as database:
        return [int(row[0]) for row in database.execute("SELECT round FROM outbox ORDER BY entry")]
