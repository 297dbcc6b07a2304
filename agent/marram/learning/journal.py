"""What a device must not lose of its learning: parameters, residual, outbox, rounds done (SQLite).

Each method that changes something is one transaction, so a power cut leaves the state before or after it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np

from marram.errors import StorageError, WireError
from marram.learning.participant import Applied, Apply, Begin, CommitDelta, Held, Memory
from marram.storage import transaction
from marram.wire.codec.chain import Chain
from marram.wire.parameters import Vector, advance, parameters_digest
from marram.wire.trees import most_trees

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arrays (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  entry INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, round INTEGER NOT NULL,
  chain TEXT NOT NULL, seed INTEGER NOT NULL, payload BLOB NOT NULL, sealed BLOB NOT NULL
);
"""


@dataclass
class Journal:
    """The journal of one bundle family. The database is opened by ``marram.storage.open_database``."""

    database: sqlite3.Connection
    family: str
    initial: Vector

    def __post_init__(self) -> None:
        """Begin anew when the family changed: parameters of another model are of no use."""
        if self._fact("family") == self.family and self.vector().shape == self.initial.shape:
            return
        with transaction(self.database):
            self._forget()

    def memory(self) -> Memory:
        """What a participant needs to go on where it was."""
        version = int(str(self._fact("version") or 0))
        outbox = self.database.execute("SELECT digest FROM outbox ORDER BY entry").fetchall()
        return Memory(
            held=Held(version, parameters_digest(self.vector())),
            run=self._run(),
            offered=int(str(self._fact("offered") or 0)),
            done_round=int(str(self._fact("done_round") if self._fact("done_round") is not None else -1)),
            counter=int(str(self._fact("counter") or 0)),
            outbox=tuple(row[0] for row in outbox),
        )

    def vector(self) -> Vector:
        """The held parameters, float32 (P,)."""
        vector = self._load("parameters")
        return self.initial if vector is None else vector

    def residual(self) -> Vector | None:
        """What earlier deltas left unsaid (error feedback), float32 (P,), or None."""
        return self._load("residual")

    def sealed(self, digest: bytes) -> bytes | None:
        """The sealed delta of this digest, if it is still in the outbox."""
        row = self.database.execute("SELECT sealed FROM outbox WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])

    def apply(self, action: Apply) -> Applied:
        """Lead the parameters to the offer's base by the fetched artefacts; all of them or none."""
        vector, version = self.vector(), self.memory().held.version
        held = Held(version, parameters_digest(vector))
        try:
            for message in action.parameters:
                if message.kind == "update" and message.version != version + 1:
                    return Applied(held, f"an update to {message.version} came on top of {version}")
                vector = advance(vector, message.kind, message.chain, message.payload, message.seed)
                version = message.version
                if parameters_digest(vector) != message.digest:
                    return Applied(held, f"version {version} does not have the digest that was signed")
        except WireError as error:
            return Applied(held, str(error))
        if version != action.offer.version or parameters_digest(vector) != action.offer.digest:
            return Applied(held, f"the artefacts lead to version {version}, not to the offer's base")
        with transaction(self.database):
            self._store("parameters", vector)
            self._set("version", version)
        return Applied(Held(version, parameters_digest(vector)))

    def begin(self, action: Begin) -> Applied:
        """Forget another run's rounds, residual, outbox and parameters: together or not at all."""
        with transaction(self.database):
            self._forget()
            self._set("run", action.run)
            self._set("offered", action.offered)
        return Applied(Held(0, parameters_digest(self.initial)))

    def commit_delta(self, action: CommitDelta) -> None:
        """The delta into the outbox, the residual it left, the round as done: together or not at all."""
        row = (action.digest, action.round, action.chain, action.seed, action.payload, action.sealed)
        with transaction(self.database):
            self.database.execute(
                "INSERT INTO outbox (digest, round, chain, seed, payload, sealed) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            if action.residual is not None:
                self._store("residual", np.frombuffer(action.residual, np.float32))
            self._set("done_round", action.round)
            self._set("offered", action.offered)
            self._set("counter", action.counter)

    def settle(self, digest: bytes, give_back: bool) -> None:
        """Take a delta out of the outbox; with ``give_back`` what it said is owed again."""
        row = self.database.execute(
            "SELECT chain, seed, payload FROM outbox WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            return
        with transaction(self.database):
            # Trees are grown anew, on the windows that they were grown on: nothing of them is owed.
            if give_back and not most_trees(row[0]) and (chain := Chain.parse(row[0])).feedback:
                lost = chain.decode(bytes(row[2]), self.initial.shape[0], int(row[1]))
                owed = self.residual()
                self._store("residual", lost if owed is None else owed + lost)
            self.database.execute("DELETE FROM outbox WHERE digest = ?", (digest,))

    def _forget(self) -> None:
        """Both counters go on: an aggregator refuses a lower one of the device's as a replay, and the device
        a lower one of the aggregator's."""
        for table in ("arrays", "outbox", "facts WHERE name NOT IN ('counter', 'offered')"):
            self.database.execute(f"DELETE FROM {table}")
        self._set("family", self.family)
        self._set("version", 0)
        self._store("parameters", self.initial)

    def _run(self) -> bytes:
        run = self._fact("run")
        return run if isinstance(run, bytes) else b""

    def _fact(self, name: str) -> object:
        row = self.database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _set(self, name: str, value: str | int | bytes) -> None:
        self.database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _load(self, name: str) -> Vector | None:
        row = self.database.execute("SELECT data FROM arrays WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        if len(row[0]) % 4:
            raise StorageError(f"the journal's {name} has a length that no float32 vector has")
        return np.frombuffer(row[0], "<f4").astype(np.float32)

    def _store(self, name: str, vector: Vector) -> None:
        self.database.execute(
            "INSERT OR REPLACE INTO arrays VALUES (?, ?)", (name, vector.astype("<f4").tobytes())
        )
