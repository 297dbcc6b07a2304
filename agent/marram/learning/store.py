"""The sample store: windows kept for training, on this device only (SQLite).

Bounded in bytes and age. When it is full, what is kept is a uniform random sample of all windows that came
(bottom-k reservoir sampling: each window draws a random key, the smallest keys stay; Cohen and Kaplan, 2007),
so that most windows that come later are never written: the card's wear falls with time. Commits are batched.
A window that is already there, to the bit, is not kept twice (replays, dead sensors).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marram.storage import open_database, transaction
from marram.stream.blocks import UNLABELLED, Windows

SCHEMA = """
CREATE TABLE IF NOT EXISTS windows (
  digest BLOB PRIMARY KEY, key REAL NOT NULL, start REAL NOT NULL, end REAL NOT NULL,
  label INTEGER NOT NULL, held_out INTEGER NOT NULL, data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS windows_key ON windows (key);
CREATE INDEX IF NOT EXISTS windows_start ON windows (start);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_ROW_OVERHEAD = 160
_MAX_PENDING = 512
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
    """Windows in the store: all, labelled, and labelled since the last training."""

    windows: int
    labelled: int
    new: int


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
        self._shape = shape
        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        self._limit = max(1, settings.max_bytes // (4 * shape[0] * shape[1] + _ROW_OVERHEAD))
        self._pending: dict[bytes, tuple[float, float, float, int, int, bytes]] = {}
        self._pending_since = 0.0
        self._trained_at = 0
        self._forget_others(family)
        self._count = int(self._database.execute("SELECT count(*) FROM windows").fetchone()[0])
        self._bound = self._largest_kept()

    def add(self, windows: Windows, now: float) -> None:
        """Offer a block to the reservoir; committed with the next batch."""
        keys = self._random.random(len(windows))
        with self._lock:
            for index in np.flatnonzero(keys < self._bound):
                data = windows.values[index].astype("<f4").tobytes()
                digest = hashlib.blake2b(data, digest_size=16).digest()
                start = float(windows.start[index])
                row = (
                    float(keys[index]), start, float(windows.end[index]),
                    int(windows.labels[index]), self._held_out(start, windows), data,
                )  # fmt: skip
                if not self._pending:
                    self._pending_since = now
                self._pending.setdefault(digest, row)
            if len(self._pending) >= _MAX_PENDING or self._due(now):
                self._commit(now)

    def label(self, label: int, start: float, end: float, now: float) -> int:
        """Give the kept windows that [start, end] (Unix s) covers at least half of this label; how many."""
        with self._lock:
            self._commit(now)
            with transaction(self._database):
                done = self._database.execute(
                    "UPDATE windows SET label = ? WHERE start <= ? AND end >= ? "
                    "AND min(end, ?) - max(start, ?) >= (end - start) / 2",
                    (label, end, start, end, start),
                )
            return done.rowcount

    def commit(self, now: float) -> None:
        """Write what is pending, if it has waited long enough."""
        with self._lock:
            if self._due(now):
                self._commit(now)

    def flush(self, now: float) -> None:
        """Write all that is pending: before a training reads the file, and at the end."""
        with self._lock:
            self._commit(now)

    def counts(self) -> Counts:
        """What there is to train on."""
        with self._lock:
            total, labelled = self._database.execute(
                "SELECT count(*), count(CASE WHEN label >= 0 THEN 1 END) FROM windows"
            ).fetchone()
            pending = sum(row[3] >= 0 for row in self._pending.values())
            total, labelled = total + len(self._pending), labelled + pending
            return Counts(total, labelled, max(0, total - self._trained_at))

    def trained(self) -> None:
        """A training has used what is there; ``Counts.new`` begins again."""
        with self._lock:
            self._trained_at = self._count

    def close(self, now: float) -> None:
        self.flush(now)
        self._database.close()

    def _due(self, now: float) -> bool:
        # A clock that was set back must not keep windows from the disk for years.
        return bool(self._pending) and not 0 <= now - self._pending_since < self._settings.commit_every

    def _commit(self, now: float) -> None:
        if not self._pending:
            return
        rows = [(digest, *row) for digest, row in self._pending.items()]
        with transaction(self._database):
            self._database.executemany("INSERT OR IGNORE INTO windows VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._database.execute("DELETE FROM windows WHERE end < ?", (now - self._settings.max_age,))
            self._count = int(self._database.execute("SELECT count(*) FROM windows").fetchone()[0])
            if self._count > self._limit:
                largest = "SELECT digest FROM windows ORDER BY key DESC LIMIT ?"
                excess = self._count - self._limit
                self._database.execute(f"DELETE FROM windows WHERE digest IN ({largest})", (excess,))
                self._count = self._limit
        self._pending.clear()
        self._bound = self._largest_kept()

    def _largest_kept(self) -> float:
        """Keys at or above this have no place in the reservoir."""
        if self._count < self._limit:
            return 1.0
        return float(self._database.execute("SELECT max(key) FROM windows").fetchone()[0])

    def _held_out(self, start: float, windows: Windows) -> int:
        length = max(float(windows.end[0] - windows.start[0]), 1e-3)
        stretch = int(start // (_STRETCH_WINDOWS * length))
        draw = hashlib.blake2b(stretch.to_bytes(8, "big", signed=True), digest_size=4).digest()
        return int(int.from_bytes(draw, "big") < self._settings.holdout * 2**32)

    def _forget_others(self, family: str) -> None:
        """Windows of another model have other channels or another length: they are of no use."""
        row = self._database.execute("SELECT value FROM facts WHERE name = 'family'").fetchone()
        if row is not None and row[0] == family:
            return
        with transaction(self._database):
            self._database.execute("DELETE FROM windows")
            self._database.execute("INSERT OR REPLACE INTO facts VALUES ('family', ?)", (family,))


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """values: float32 (n, channels, length). labels: int64 (n,), UNLABELLED where there is none."""

    values: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.values.shape[0])


def read_training_set(path: Path, shape: tuple[int, int], labelled: bool) -> tuple[TrainingSet, TrainingSet]:
    """The windows to train on and those held out, read by the trainer from the store's file.

    labelled: only windows that have a label.
    """
    database = open_database(path, SCHEMA, durable=False)
    try:
        rows = database.execute(
            "SELECT held_out, label, data FROM windows WHERE label >= ? ORDER BY start",
            (0 if labelled else UNLABELLED,),
        ).fetchall()
    finally:
        database.close()
    sets = []
    for part in (0, 1):
        chosen = [row for row in rows if row[0] == part]
        values = np.frombuffer(b"".join(row[2] for row in chosen), "<f4").astype(np.float32)
        labels = np.array([row[1] for row in chosen], np.int64)
        sets.append(TrainingSet(values.reshape(-1, *shape), labels))
    return sets[0], sets[1]
