"""What an aggregator must not lose: devices, rounds, deltas, versions (one SQLite file).

A delta is in the ledger before its receipt is sent; a round is closed and the next one opened in one
transaction. So after kill -9 at any point the aggregator goes on exactly where the ledger says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
from cryptography import x509
from marram.errors import MarramError
from marram.storage import transaction
from marram.wire import cbor
from marram.wire.messages import Artefact, Metrics, RangesAsked, Steps
from marram.wire.parameters import Vector, parameters_digest
from numpy.typing import NDArray

from marram_cloud.ledger.devices import add_certificate, serial_text

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS devices (
  name TEXT PRIMARY KEY, enrolled REAL NOT NULL, counter INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS certificates (
  key_id BLOB PRIMARY KEY, device TEXT NOT NULL, serial TEXT NOT NULL UNIQUE, expires REAL NOT NULL,
  added REAL NOT NULL, certificate BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificates_of ON certificates (device);
CREATE TABLE IF NOT EXISTS revoked (serial TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
  version INTEGER PRIMARY KEY, digest BLOB NOT NULL, created REAL NOT NULL,
  parameters BLOB, exact BLOB, state BLOB
);
CREATE TABLE IF NOT EXISTS artefacts (
  version INTEGER NOT NULL, kind TEXT NOT NULL, envelope BLOB NOT NULL, parts INTEGER NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (version, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawn (topic TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rounds (
  number INTEGER PRIMARY KEY, version INTEGER NOT NULL, chain TEXT NOT NULL, seed INTEGER NOT NULL,
  steps BLOB NOT NULL, opened REAL NOT NULL, closed REAL, counted INTEGER, weight INTEGER, ranges BLOB
);
CREATE TABLE IF NOT EXISTS deltas (
  round INTEGER NOT NULL, device TEXT NOT NULL, digest BLOB NOT NULL UNIQUE, samples INTEGER NOT NULL,
  before BLOB NOT NULL, after BLOB NOT NULL, bytes INTEGER NOT NULL, received REAL NOT NULL, payload BLOB,
  PRIMARY KEY (round, device)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ranges (
  version INTEGER NOT NULL, device TEXT NOT NULL, program BLOB NOT NULL, minimum BLOB NOT NULL,
  maximum BLOB NOT NULL, PRIMARY KEY (version, device)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (
  device TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, last REAL NOT NULL,
  detail TEXT NOT NULL, PRIMARY KEY (device, reason)
) WITHOUT ROWID;
DROP TABLE IF EXISTS releases;
"""

_LAST_SKIP = 1 << 40  # far below what an offer can say: whoever skips too far can never come back


class LedgerError(MarramError):
    """The ledger does not hold what is asked for."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device and the certificate that a message named; ``revoked`` is of that certificate.

    counter: the highest message counter that was accepted from the device.
    """

    name: str
    certificate: x509.Certificate
    revoked: bool
    counter: int


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the parameters. exact: float64 (P,), what the rule computed; ``parameters`` is what
    devices hold after the lossy update, and the difference goes into the next update."""

    version: int
    digest: bytes
    parameters: Vector
    exact: NDArray[np.float64]
    state: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round; ``closed`` is None while it is open. ranges: where devices are to tell theirs."""

    number: int
    version: int
    chain: str
    seed: int
    steps: Steps
    opened: float
    closed: float | None = None
    counted: int | None = None
    weight: int | None = None
    ranges: RangesAsked | None = None


@dataclass(frozen=True, slots=True)
class StoredDelta:
    """A delta to be committed, as it was verified."""

    round: int
    device: str
    digest: bytes
    samples: int
    before: Metrics
    after: Metrics
    size: int
    counter: int
    payload: bytes


@dataclass
class Ledger:
    """The ledger over one database, opened by ``marram.storage.open_database`` with ``SCHEMA``."""

    database: sqlite3.Connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block, or none."""
        with transaction(self.database):
            yield

    # ---- facts

    def fact(self, name: str) -> object:
        row = self.database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def set_fact(self, name: str, value: str | int | bytes) -> None:
        self.database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def run(self) -> bytes:
        """The identity of this ledger, 16 random bytes, made once; devices see by it that rounds began anew.

        The caller holds the transaction.
        """
        self.database.execute("INSERT OR IGNORE INTO facts VALUES ('run', randomblob(16))")
        run = self.fact("run")
        assert isinstance(run, bytes)
        return run

    # ---- devices

    def add_device(self, name: str, certificate: x509.Certificate, now: float) -> None:
        """A device, or one more certificate of it; the others stay good until they end."""
        self.database.execute("INSERT OR IGNORE INTO devices (name, enrolled) VALUES (?, ?)", (name, now))
        add_certificate(self.database, name, certificate, now)

    def enroller(self, name: str, now: float) -> Callable[[x509.Certificate], None]:
        """Commits a device with the certificate that it is called with. Raises StorageError."""

        def enrol(certificate: x509.Certificate) -> None:
            with self.transaction():
                self.add_device(name, certificate, now)

        return enrol

    def revoke_device(self, name: str, now: float) -> None:
        """Revoke all certificates that a device has by now. Raises LedgerError when there is none."""
        serials = [one.serial_number for one in self.certificates_of(name)]
        if not serials:
            raise LedgerError(f"there is no device {name!r}; `marram-cloud devices` lists them")
        self.revoke(serials, now)

    def revoke(self, serials: Iterable[int], now: float) -> None:
        """Believe the certificates with these serial numbers no more, also those that are not known yet."""
        self.database.executemany(
            "INSERT OR IGNORE INTO revoked VALUES (?, ?)", ((serial_text(serial), now) for serial in serials)
        )

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        serial = serial_text(certificate.serial_number)
        return (
            self.database.execute("SELECT 1 FROM revoked WHERE serial = ?", (serial,)).fetchone() is not None
        )

    def certificates_of(self, name: str) -> list[x509.Certificate]:
        """All certificates of a device that were ever known here."""
        rows = self.database.execute(
            "SELECT certificate FROM certificates WHERE device = ?", (name,)
        ).fetchall()
        return [x509.load_der_x509_certificate(row[0]) for row in rows]

    def device_by_key(self, key_id: bytes) -> Device | None:
        row = self.database.execute(
            "SELECT device, certificate, revoked.serial, counter FROM certificates "
            "JOIN devices ON devices.name = device LEFT JOIN revoked USING (serial) WHERE key_id = ?",
            (key_id,),
        ).fetchone()
        if row is None:
            return None
        return Device(row[0], x509.load_der_x509_certificate(row[1]), row[2] is not None, row[3])

    def knows_device(self, name: str) -> bool:
        """Whether a device of this name was ever enrolled."""
        return self.database.execute("SELECT 1 FROM devices WHERE name = ?", (name,)).fetchone() is not None

    def trusts(self, name: str, now: float) -> bool:
        """Whether a device of this name has a certificate that has not ended and was not revoked."""
        row = self.database.execute(
            "SELECT 1 FROM certificates WHERE device = ? AND expires >= ? "
            "AND serial NOT IN (SELECT serial FROM revoked)",
            (name, now),
        ).fetchone()
        return row is not None

    def devices(self) -> list[tuple[str, float, bool]]:
        """(name, enrolled at, revoked) of every device; revoked means all certificates that it has."""
        return [
            (name, enrolled, known > 0 and good == 0)
            for name, enrolled, known, good in self.database.execute(
                "SELECT name, enrolled, count(certificates.serial), "
                "count(certificates.serial) - count(revoked.serial) FROM devices "
                "LEFT JOIN certificates ON device = name LEFT JOIN revoked USING (serial) "
                "GROUP BY name ORDER BY name"
            )
        ]

    # ---- versions and artefacts

    def add_version(
        self, version: int, parameters: Vector, exact: NDArray[np.float64],
        state: NDArray[np.float64] | None, now: float,
    ) -> None:  # fmt: skip
        self.database.execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?)",
            (
                version,
                parameters_digest(parameters),
                now,
                parameters.astype("<f4").tobytes(),
                exact.astype("<f8").tobytes(),
                None if state is None else state.astype("<f8").tobytes(),
            ),
        )

    def forget_versions(self, before: int) -> None:
        """Drop the arrays that no later step needs: ``exact`` and ``state`` of all but the newest, and
        the parameters, updates and ranges of versions before ``before``."""
        self.database.execute(
            "UPDATE versions SET exact = NULL, state = NULL "
            "WHERE exact IS NOT NULL AND version < (SELECT max(version) FROM versions)"
        )
        self.database.execute(
            "UPDATE versions SET parameters = NULL WHERE parameters IS NOT NULL AND version < ?", (before,)
        )
        self.database.execute("DELETE FROM ranges WHERE version < ?", (before,))

    def latest_version(self) -> Version | None:
        row = self.database.execute(
            "SELECT version, digest, parameters, exact, state FROM versions ORDER BY version DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        state = None if row[4] is None else np.frombuffer(row[4], "<f8")
        return Version(row[0], row[1], np.frombuffer(row[2], "<f4"), np.frombuffer(row[3], "<f8"), state)

    def version_digest(self, version: int) -> bytes:
        row = self.database.execute("SELECT digest FROM versions WHERE version = ?", (version,)).fetchone()
        if row is None:
            raise LedgerError(f"there is no version {version}")
        return bytes(row[0])

    def parameters(self, version: int) -> Vector:
        """The published parameters of a version, float32 (P,). Raises LedgerError when they are gone."""
        row = self.database.execute(
            "SELECT parameters FROM versions WHERE version = ?", (version,)
        ).fetchone()
        if row is None or row[0] is None:
            raise LedgerError(f"the parameters of version {version} are not kept (any more)")
        return np.frombuffer(row[0], "<f4")

    def kept_versions(self) -> list[int]:
        rows = self.database.execute(
            "SELECT version FROM versions WHERE parameters IS NOT NULL ORDER BY version"
        ).fetchall()
        return [row[0] for row in rows]

    def add_artefact(self, artefact: Artefact, sealed: bytes) -> None:
        self.database.execute(
            "INSERT INTO artefacts VALUES (?, ?, ?, ?, ?)",
            (artefact.version, artefact.kind, artefact.envelope, artefact.parts, sealed),
        )

    def artefacts(self) -> list[Artefact]:
        """All published artefacts, without their bytes."""
        rows = self.database.execute(
            "SELECT version, kind, envelope, length(sealed), parts FROM artefacts ORDER BY version, kind"
        ).fetchall()
        return [Artefact(*row) for row in rows]

    def sealed_artefact(self, artefact: Artefact) -> bytes:
        row = self.database.execute(
            "SELECT sealed FROM artefacts WHERE version = ? AND kind = ?", (artefact.version, artefact.kind)
        ).fetchone()
        if row is None:
            raise LedgerError(f"there is no {artefact.kind} of version {artefact.version}")
        return bytes(row[0])

    def drop_artefacts(self, before: int) -> list[Artefact]:
        """Forget what leads to versions before ``before``; returns what is to be taken off the broker."""
        old = [artefact for artefact in self.artefacts() if artefact.version < before]
        self.database.execute("DELETE FROM artefacts WHERE version < ?", (before,))
        return old

    def withdraw(self, topics: Sequence[str]) -> None:
        """Remember what is to be taken off the broker, instead of what was before."""
        self.database.execute("DELETE FROM withdrawn")
        self.database.executemany("INSERT OR IGNORE INTO withdrawn VALUES (?)", [(one,) for one in topics])

    def withdrawn(self) -> list[str]:
        """What was to be taken off the broker last; it may still be there if the process was killed then."""
        rows = self.database.execute("SELECT topic FROM withdrawn ORDER BY topic").fetchall()
        return [row[0] for row in rows]

    # ---- rounds and deltas

    def open_round(self, round: Round) -> None:
        self.database.execute(
            "INSERT INTO rounds (number, version, chain, seed, steps, opened, ranges) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                round.number,
                round.version,
                round.chain,
                round.seed,
                msgspec.json.encode(round.steps),
                round.opened,
                None if round.ranges is None else cbor.pack(round.ranges),
            ),
        )

    def close_round(self, number: int, now: float, counted: int, weight: int) -> None:
        self.database.execute(
            "UPDATE rounds SET closed = ?, counted = ?, weight = ? WHERE number = ? AND closed IS NULL",
            (now, counted, weight, number),
        )

    def skip_to(self, number: int) -> None:
        """Give the open round a later number, with the deltas that it has. Raises LedgerError.

        For a ledger that is an older copy: devices do no round twice, and have done later ones.
        """
        current = self.current_round()
        if current is None:
            raise LedgerError("no round is open: there is none to give a later number to")
        if not current.number < number <= _LAST_SKIP:
            raise LedgerError(
                f"round {current.number} is open: expected a number above it, at most {_LAST_SKIP}"
            )
        self.database.execute("UPDATE rounds SET number = ? WHERE number = ?", (number, current.number))
        self.database.execute("UPDATE deltas SET round = ? WHERE round = ?", (number, current.number))

    def current_round(self) -> Round | None:
        """The open round, or None before the first."""
        rounds = self._rounds("WHERE closed IS NULL ORDER BY number DESC LIMIT 1")
        return rounds[0] if rounds else None

    def rounds(self, last: int = 1 << 60) -> list[Round]:
        """The last rounds, oldest first."""
        return self._rounds(f"ORDER BY number DESC LIMIT {int(last)}")[::-1]

    def _rounds(self, where: str) -> list[Round]:
        rows = self.database.execute(
            f"SELECT number, version, chain, seed, steps, opened, closed, counted, weight, ranges "
            f"FROM rounds {where}"
        ).fetchall()
        return [
            Round(
                number,
                version,
                chain,
                seed,
                msgspec.json.decode(steps, type=Steps),
                opened,
                closed,
                counted,
                weight,
                None if ranges is None else cbor.unpack(ranges, RangesAsked),
            )
            for number, version, chain, seed, steps, opened, closed, counted, weight, ranges in rows
        ]

    def add_delta(self, delta: StoredDelta, now: float) -> None:
        """Commit-side of a receipt; the caller holds the transaction."""
        self.database.execute(
            "INSERT INTO deltas VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                delta.round,
                delta.device,
                delta.digest,
                delta.samples,
                msgspec.json.encode(delta.before),
                msgspec.json.encode(delta.after),
                delta.size,
                now,
                delta.payload,
            ),
        )
        self.database.execute(
            "UPDATE devices SET counter = max(counter, ?) WHERE name = ?", (delta.counter, delta.device)
        )

    def add_ranges(
        self, version: int, device: str, program: bytes, minimum: NDArray[np.float64],
        maximum: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """What a device told of a version's activations; the last word counts. The caller holds the
        transaction."""
        self.database.execute(
            "INSERT OR REPLACE INTO ranges VALUES (?, ?, ?, ?, ?)",
            (version, device, program, minimum.astype("<f8").tobytes(), maximum.astype("<f8").tobytes()),
        )

    def ranges(
        self, versions: Sequence[int], program: bytes
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """By device: (minimum, maximum), each (A,), of the newest of these versions that it measured."""
        marks = ", ".join("?" * len(versions))
        rows = self.database.execute(
            f"SELECT device, minimum, maximum FROM ranges WHERE version IN ({marks}) AND program = ? "
            "ORDER BY version",
            (*versions, program),
        )
        return {row[0]: (np.frombuffer(row[1], "<f8"), np.frombuffer(row[2], "<f8")) for row in rows}

    def knows_delta(self, digest: bytes) -> bool:
        row = self.database.execute("SELECT 1 FROM deltas WHERE digest = ?", (digest,)).fetchone()
        return row is not None

    def delta_devices(self, round: int) -> list[tuple[str, int]]:
        """(device, samples) of a round's deltas, in the order of the device's name."""
        rows = self.database.execute(
            "SELECT device, samples FROM deltas WHERE round = ? ORDER BY device", (round,)
        ).fetchall()
        return [(row[0], row[1]) for row in rows]

    def delta_payload(self, round: int, device: str) -> bytes:
        row = self.database.execute(
            "SELECT payload FROM deltas WHERE round = ? AND device = ?", (round, device)
        ).fetchone()
        if row is None or row[0] is None:
            raise LedgerError(f"the delta of {device} in round {round} is not kept (any more)")
        return bytes(row[0])

    def forget_payloads(self, before: int) -> None:
        """Drop the payloads of rounds that were summed before round ``before``; what was measured stays."""
        self.database.execute(
            "UPDATE deltas SET payload = NULL WHERE round < ? AND payload IS NOT NULL", (before,)
        )

    def evaluations(self) -> dict[int, list[tuple[str, Metrics]]]:
        """By version of the parameters: what each device measured of it on its own held-out windows."""
        rows = self.database.execute(
            "SELECT rounds.version, deltas.device, deltas.before FROM deltas "
            "JOIN rounds ON rounds.number = deltas.round ORDER BY rounds.version, deltas.device"
        )
        found: dict[int, list[tuple[str, Metrics]]] = {}
        for version, device, before in rows:
            found.setdefault(version, []).append((device, msgspec.json.decode(before, type=Metrics)))
        return found

    def round_figures(self, number: int) -> tuple[int, int, list[Metrics], list[Metrics]]:
        """(deltas, bytes received, before, after) of one round."""
        rows = self.database.execute(
            "SELECT bytes, before, after FROM deltas WHERE round = ? ORDER BY device", (number,)
        ).fetchall()
        before = [msgspec.json.decode(row[1], type=Metrics) for row in rows]
        after = [msgspec.json.decode(row[2], type=Metrics) for row in rows]
        return len(rows), sum(row[0] for row in rows), before, after

    # ---- refusals

    def count_refusal(self, device: str, reason: str, detail: str, now: float) -> None:
        self.database.execute(
            "INSERT INTO refusals VALUES (?, ?, 1, ?, ?) ON CONFLICT (device, reason) DO UPDATE SET "
            "count = count + 1, last = excluded.last, detail = excluded.detail",
            (device, reason, now, detail),
        )

    def refusals(self) -> dict[str, int]:
        """How many messages were refused, by reason."""
        rows = self.database.execute("SELECT reason, sum(count) FROM refusals GROUP BY reason").fetchall()
        return {row[0]: row[1] for row in rows}
