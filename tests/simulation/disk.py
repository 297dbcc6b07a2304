"""A disk that a simulated machine keeps through its crashes: SQLite in memory, with a crash at any commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from marram import storage


class Crash(BaseException):
    """The machine lost its power here. Not an Exception, so that no handler survives it."""


class Disk(sqlite3.Connection):
    """A connection that asks before and after each commit whether the power fails now, and before it
    whether the disk cannot write (it is full, or bad)."""

    power: Callable[[], bool] = staticmethod(lambda: False)
    broken: Callable[[], bool] = staticmethod(lambda: False)
    commits = 0

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if sql != "COMMIT":
            return super().execute(sql, *rest)
        self.commits += 1
        if self.power():
            raise Crash("before a commit")
        if self.broken():
            raise sqlite3.OperationalError("database or disk is full")
        done = super().execute(sql, *rest)
        if self.power():
            raise Crash("after a commit")
        return done


def new_disk(schema: str) -> Disk:
    disk = sqlite3.connect(":memory:", isolation_level=None, factory=Disk)
    storage.prepare(disk, schema)
    return disk
