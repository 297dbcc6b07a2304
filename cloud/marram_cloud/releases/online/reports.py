"""What devices report of releases, in a database of its own: the last word of each, and every outcome.

Losing it costs little: each device's report is retained at the broker and comes again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec
from marram.storage import open_database, transaction
from marram.wire.messages import Report

from marram_cloud.releases.rollout.controller import Outcome

SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
  device TEXT PRIMARY KEY, counter INTEGER NOT NULL, heard REAL NOT NULL, report BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
  target TEXT NOT NULL, device TEXT NOT NULL, stage TEXT NOT NULL, changed REAL NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (target, device)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """The last report of a device, and when it came (Unix s)."""

    report: Report
    heard: float


def open_reports(state: Path) -> Reports:
    """Those of an aggregator's state folder. Raises StorageError."""
    return Reports(open_database(state / "reports.db", SCHEMA))


@dataclass
class Reports:
    """Over a database opened by ``marram.storage.open_database`` with ``SCHEMA``."""

    database: sqlite3.Connection

    def take(self, device: str, report: Report, counter: int, now: float, known: bool) -> bool:
        """Keep a verified report; False when a newer one came before. Raises StorageError.

        known: whether its candidate is a release of the repository; of others no outcome is kept, so that a
        device can fill nothing.
        """
        with transaction(self.database):
            fresh = self.database.execute(
                "INSERT INTO reports VALUES (?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET "
                "counter = excluded.counter, heard = excluded.heard, report = excluded.report "
                "WHERE excluded.counter > counter",
                (device, counter, now, msgspec.json.encode(report)),
            ).rowcount
            if fresh and known:
                self._outcome(device, report, now)
        return bool(fresh)

    def _outcome(self, device: str, report: Report, now: float) -> None:
        self.database.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?) ON CONFLICT (target, device) DO UPDATE SET "
            "changed = CASE WHEN stage = excluded.stage THEN changed ELSE excluded.changed END, "
            "stage = excluded.stage, reason = excluded.reason",
            (report.candidate, device, report.stage, now, report.reason),
        )

    def outcomes(self, target: str) -> dict[str, Outcome]:
        """By device: how far each is with a release."""
        rows = self.database.execute(
            "SELECT device, stage, changed, reason FROM outcomes WHERE target = ? ORDER BY device", (target,)
        ).fetchall()
        return {device: Outcome(stage, changed, reason) for device, stage, changed, reason in rows}

    def heard(self) -> dict[str, Heard]:
        """By device: its last report."""
        rows = self.database.execute("SELECT device, report, heard FROM reports ORDER BY device").fetchall()
        return {
            device: Heard(msgspec.json.decode(report, type=Report), heard) for device, report, heard in rows
        }
