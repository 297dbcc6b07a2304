"""The sample store: windows kept for training, on this device only (SQLite).

Bounded in bytes and age. When it is full, what is kept is a uniform random sample of all windows that came
(bottom-k reservoir sampling: each window draws a random key, the smallest keys stay; Cohen and Kaplan, 2007),
so that most windows that come later are never written: the card's wear falls with time. Commits are batched.
A window that is already there, to the bit, is not kept twice (replays, dead sensors).

Each window carries the generation in which it came or got its label; a training uses up the generations
until its start, so what is new since then is known after a restart and in a full store too.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marram.errors import TrainingError
from marram.storage import open_database, transaction
from marram.stream.blocks import UNLABELLED, Windows

SCHEMA = """
CREATE TABLE IF NOT EXISTS windows (
  number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, key REAL NOT NULL, start REAL NOT NULL,
  end REAL NOT NULL, label INTEGER NOT NULL, held_out INTEGER NOT NULL, generation INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS windows_key ON windows (key);
CREATE INDEX IF NOT EXISTS windows_end ON windows (end);
CREATE INDEX IF NOT EXISTS windows_label ON windows (label, generation);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_PAGE, _EMPTY = 4096, 12 * 4096
_ROW_OVERHEAD, _INDEX_ROW = 64, 160  # bytes; measured, rounded up
_MAX_PENDING, _MAX_PENDING_BYTES = 512, 1 << 20
# A held-out stretch of time must be long against the overlap of windows, else training has seen most of it.
_STRETCH_WINDOWS = 10


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """max_bytes, max_age (s): bounds. commit_every: s. holdout: part that is kept for evaluation, 0 to 1."""

    max_bytes: int
    max_age: float
    commit_every: float
    holdout: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Windows in the store: all, labelled, and of both those that no training has used yet, and those that
    are trained on because they are not held out."""

    windows: int
    labelled: int
    new: int
    new_labelled: int
    seen: int
    seen_labelled: int


@dataclass(frozen=True, slots=True)
class _Row:
    digest: bytes
    key: float
    start: float
    end: float
    label: int
    held_out: int
    generation: int
    data: bytes

    def values(self) -> tuple[bytes | float, ...]:
        return (
            self.digest, self.key, self.start, self.end, self.label, self.held_out, self.generation, self.data
        )  # fmt: skip


class SampleStore:
    """One model's windows. Safe to use from several threads."""

    def __init__(
        self,
        path: Path | str,
        family: str,
        shape: tuple[int, int],
        settings: StoreSettings,
        seed: int | None = None,
    ) -> None:
        self._database = open_database(path, SCHEMA, durable=False)
        self._settings = settings
        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        size = 4 * shape[0] * shape[1]
        self._window_bytes = _disk_bytes(size)
        self._limit = self._most()
        self._max_pending = max(1, min(_MAX_PENDING, _MAX_PENDING_BYTES // size))
        self._pending: dict[bytes, _Row] = {}
        self._pending_since = 0.0
        self._forget_others(family)
        self._generation, self._used = self._fact("generation", 1), self._fact("used", 0)
        self._count = int(self._database.execute("SELECT count(*) FROM windows").fetchone()[0])
        self._bound = self._largest_kept()
        self.paused = False  # nothing is written but what was asked for by name
        self.stretch = 1.0  # times commit_every

    def settle(self, settings: StoreSettings) -> None:
        """Other limits from now on; what is too much goes when the next windows are committed."""
        with self._lock:
            self._settings = settings
            self._limit = self._most()
            self._bound = 1.0  # of all that comes, until the next commit

    def _most(self) -> int:
        """Windows that fit."""
        return max(1, int((self._settings.max_bytes - _EMPTY) / self._window_bytes))

    def add(self, windows: Windows, now: float) -> None:
        """Offer a block to the reservoir; committed with the next batch.

        Raises StorageError while the disk cannot be written; the last pending windows are kept for then.
        """
        with self._lock:
            keys = self._random.random(len(windows))
            for index in np.flatnonzero(keys < self._bound):
                if len(self._pending) >= self._max_pending:
                    if self.paused:
                        break  # it is a sample of what came anyway
                    self._commit(now)
                if not self._pending:
                    self._pending_since = now
                row = self._row(windows, int(index), float(keys[index]))
                self._pending.setdefault(row.digest, row)
            if self._due(now):
                self._commit(now)

    def label(self, label: int, start: float, end: float, now: float) -> int:
        """Give the kept windows that [start, end] (Unix s) covers at least half of this label; how many."""
        with self._lock:
            self._commit(now)
            with transaction(self._database):
                done = self._database.execute(
                    "UPDATE windows SET generation = CASE label WHEN ? THEN generation ELSE ? END, label = ? "
                    "WHERE start <= ? AND end >= ? AND min(end, ?) - max(start, ?) >= (end - start) / 2",
                    (label, self._generation, label, end, start, end, start),
                )
            return done.rowcount

    def commit(self, now: float) -> None:
        """Write what is pending, if it has waited long enough."""
        with self._lock:
            if self._due(now):
                self._commit(now)

    def flush(self, now: float) -> None:
        """Write all that is pending."""
        with self._lock:
            self._commit(now)

    def counts(self) -> Counts:
        """What there is to train on."""
        with self._lock:
            stored = self._database.execute(
                "SELECT count(*), total(label >= 0), total(generation > ?1), "
                "total(label >= 0 AND generation > ?1), total(held_out = 0), "
                "total(label >= 0 AND held_out = 0) FROM windows",
                (self._used,),
            ).fetchone()
            rows = list(self._pending.values())
        labelled = [row for row in rows if row.label >= 0]
        pending = [
            *[len(rows), len(labelled)] * 2,
            *(sum(not row.held_out for row in those) for those in (rows, labelled)),
        ]
        return Counts(*(int(one) + more for one, more in zip(stored, pending, strict=True)))

    def begin_training(self, now: float) -> int:
        """Write all that is pending, so that a training can read it; the mark to give to ``trained``."""
        with self._lock:
            self._commit(now)
            mark = self._generation
            with transaction(self._database):
                self._set("generation", mark + 1)
            self._generation = mark + 1
            return mark

    def trained(self, mark: int) -> None:
        """A training has used what was there at ``begin_training``; ``Counts.new`` begins again."""
        with self._lock:
            with transaction(self._database):
                self._set("used", mark)
            self._used = mark

    def close(self, now: float) -> None:
        self.flush(now)
        self._database.close()

    def _row(self, windows: Windows, index: int, key: float) -> _Row:
        data = windows.values[index].astype("<f4").tobytes()
        start = float(windows.start[index])
        return _Row(
            digest=hashlib.blake2b(data, digest_size=16).digest(),
            key=key,
            start=start,
            end=float(windows.end[index]),
            label=int(windows.labels[index]),
            held_out=self._held_out(start, windows),
            generation=self._generation,
            data=data,
        )

    def _due(self, now: float) -> bool:
        # A clock that was set back must not keep windows from the disk for years.
        wait = self._settings.commit_every * self.stretch
        return not self.paused and bool(self._pending) and not 0 <= now - self._pending_since < wait

    def _commit(self, now: float) -> None:
        """Room is made before the new rows go in, so that the file does not grow beyond its bound."""
        if not self._pending:
            return
        with transaction(self._database) as database:
            database.execute("DELETE FROM windows WHERE end < ?", (now - self._settings.max_age,))
            known = "SELECT 1 FROM windows WHERE digest = ?"
            rows = [
                row
                for row in self._pending.values()
                if row.end >= now - self._settings.max_age
                and database.execute(known, (row.digest,)).fetchone() is None
            ]
            count = int(database.execute("SELECT count(*) FROM windows").fetchone()[0])
            rows.sort(key=lambda row: row.key)
            excess = max(0, count + len(rows) - self._limit)
            largest = database.execute(
                "SELECT number, key FROM windows ORDER BY key DESC LIMIT ?", (excess,)
            ).fetchall()
            for _ in range(excess):
                if rows and (not largest or rows[-1].key >= largest[0][1]):
                    rows.pop()
                else:
                    database.execute("DELETE FROM windows WHERE number = ?", (largest.pop(0)[0],))
                    count -= 1
            database.executemany(
                "INSERT INTO windows (digest, key, start, end, label, held_out, generation, data) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [row.values() for row in rows],
            )
        self._count = count + len(rows)
        self._pending.clear()
        self._bound = self._largest_kept()

    def _largest_kept(self) -> float:
        """Keys at or above this have no place in the reservoir."""
        if self._count < self._limit:
            return 1.0
        return float(self._database.execute("SELECT max(key) FROM windows").fetchone()[0])

    def _held_out(self, start: float, windows: Windows) -> int:
        length = max(float(windows.end[0] - windows.start[0]), 1e-3)
        # A sensor may give any finite time, so any number of stretches.
        stretch = int(start // (_STRETCH_WINDOWS * length)) & (1 << 64) - 1
        draw = hashlib.blake2b(stretch.to_bytes(8, "big"), digest_size=4).digest()
        return int(int.from_bytes(draw, "big") < self._settings.holdout * 2**32)

    def _forget_others(self, family: str) -> None:
        """Windows of another model have other channels or another length: they are of no use."""
        row = self._database.execute("SELECT value FROM facts WHERE name = 'family'").fetchone()
        if row is not None and row[0] == family:
            return
        with transaction(self._database):
            self._database.execute("DELETE FROM windows")
            self._set("family", family)

    def _fact(self, name: str, default: int) -> int:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else int(row[0])

    def _set(self, name: str, value: str | int) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _disk_bytes(size: int) -> float:
    """What a window of ``size`` bytes takes of the file: rows do not share a page when two do not fit it."""
    row = size + _ROW_OVERHEAD
    return _INDEX_ROW + (_PAGE / (_PAGE // row) if row <= _PAGE else _PAGE * -(-row // _PAGE))


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """values: float32 (n, channels, length). labels: int64 (n,), UNLABELLED where there is none."""

    values: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.values.shape[0])


def read_training_set(path: Path, shape: tuple[int, int], labelled: bool) -> tuple[TrainingSet, TrainingSet]:
    """The windows to train on and those held out, read by the trainer from the store's file.

    labelled: only windows that have a label. Raises TrainingError when the file cannot be read; it is not
    touched, as it belongs to the daemon.
    """
    least = 0 if labelled else UNLABELLED
    with _reading(path) as database:
        seen = _read_part(database, shape, "held_out = ?", least, 0)
        return seen, _read_part(database, shape, "held_out = ?", least, 1)


def read_new_windows(path: Path, shape: tuple[int, int], labelled: bool) -> TrainingSet:
    """The windows that came, or got their label, since the last training. Raises TrainingError."""
    with _reading(path) as database:
        used = database.execute("SELECT value FROM facts WHERE name = 'used'").fetchone()
        after = 0 if used is None else int(used[0])
        return _read_part(database, shape, "generation > ?", 0 if labelled else UNLABELLED, after)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("BEGIN")  # so that all that is read is of one moment
            yield database
    except sqlite3.DatabaseError as error:
        raise TrainingError(f"{path}: the stored windows cannot be read: {error}") from error


def _read_part(
    database: sqlite3.Connection, shape: tuple[int, int], which: str, least: int, value: int
) -> TrainingSet:
    """Row by row into arrays of the right size: a full store must not be in memory twice."""
    where = f"FROM windows WHERE label >= ? AND {which}"
    count = database.execute(f"SELECT count(*) {where}", (least, value)).fetchone()[0]
    values = np.empty((count, *shape), np.float32)
    labels = np.empty(count, np.int64)
    rows = database.execute(f"SELECT label, data {where} ORDER BY end", (least, value))
    for index, (label, data) in enumerate(rows):
        values[index] = np.frombuffer(data, "<f4").reshape(shape)
        labels[index] = label
    return TrainingSet(values, labels)
