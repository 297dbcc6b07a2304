"""What the authority has done: tokens, certificates, revocations (``enrolment.db`` in the fleet's folder).

Several processes may use it at once: the enrolment server, and commands beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from marram.storage import open_database, transaction
from marram.wire import certificates, envelope
from marram.wire.certificates import PublicKey
from marram.wire.tokens import Token

from marram_cloud.enrolment.authority import EnrolmentError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lists (number INTEGER PRIMARY KEY, written REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
  id TEXT PRIMARY KEY, secret BLOB NOT NULL, device TEXT, count INTEGER NOT NULL, created REAL NOT NULL,
  expires REAL NOT NULL, withdrawn REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS certificates (
  serial TEXT PRIMARY KEY, name TEXT NOT NULL, key BLOB NOT NULL, certificate BLOB NOT NULL,
  issued REAL NOT NULL, expires REAL NOT NULL, token TEXT, revoked REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificates_of ON certificates (name);
CREATE INDEX IF NOT EXISTS certificates_for ON certificates (key);
CREATE INDEX IF NOT EXISTS certificates_by ON certificates (token);
"""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token without its secret.

    device: the only one that may use it, or None. count: certificates that it is good for. used: those given.
    """

    id: str
    device: str | None
    count: int
    used: int
    expires: float
    withdrawn: bool

    def state(self, now: float) -> str:
        """ "withdrawn", "used", "expired" or "open"."""
        if self.withdrawn:
            return "withdrawn"
        if self.used >= self.count:
            return "used"
        return "expired" if self.expires <= now else "open"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate on record. issued: when, Unix s."""

    name: str
    certificate: x509.Certificate
    issued: float
    revoked: bool


@dataclass(frozen=True, slots=True)
class Registry:
    """The records over one database."""

    database: sqlite3.Connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block, or none; nobody else changes anything meanwhile. Raises StorageError."""
        with transaction(self.database):
            yield

    # ---- tokens

    def add_token(self, token: Token, device: str | None, count: int, now: float, expires: float) -> None:
        self.database.execute(
            "INSERT INTO tokens (id, secret, device, count, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
            (token.id, _hash(token), device, count, now, expires),
        )

    def token(self, token: Token) -> StoredToken | None:
        """What is on record of this token, if its secret is the right one."""
        row = self.database.execute("SELECT secret FROM tokens WHERE id = ?", (token.id,)).fetchone()
        if row is None or not hmac.compare_digest(row[0], _hash(token)):
            return None
        return self._tokens("WHERE tokens.id = ?", token.id)[0]

    def tokens(self) -> list[StoredToken]:
        """All of them, oldest first."""
        return self._tokens("")

    def _tokens(self, where: str, *values: object) -> list[StoredToken]:
        rows = self.database.execute(
            "SELECT tokens.id, device, count, count(serial), tokens.expires, withdrawn IS NOT NULL "
            f"FROM tokens LEFT JOIN certificates ON token = tokens.id {where} "
            "GROUP BY tokens.id ORDER BY created, tokens.id",
            values,
        )
        return [StoredToken(*row) for row in rows]

    def withdraw(self, id: str, now: float) -> None:
        """Raises EnrolmentError when there is no such token."""
        done = self.database.execute("UPDATE tokens SET withdrawn = ? WHERE id = ?", (now, id))
        if done.rowcount == 0:
            raise EnrolmentError(f"there is no token {id!r}; `marram-cloud enrolment tokens` lists them")

    # ---- certificates

    def record(self, name: str, certificate: x509.Certificate, now: float, token: str | None = None) -> None:
        """Take down what was issued; nothing when it is on record already."""
        self.database.execute(
            "INSERT OR IGNORE INTO certificates (serial, name, key, certificate, issued, expires, token) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                f"{certificate.serial_number:x}",
                name,
                envelope.key_id_of(certificates.public_key(certificate)),
                certificates.der(certificate),
                now,
                certificate.not_valid_after_utc.timestamp(),
                token,
            ),
        )

    def certificates(self) -> list[Issued]:
        """All of them, newest first."""
        return self._issued("TRUE")

    def of_device(self, name: str) -> list[Issued]:
        """Certificates of this name, newest first."""
        return self._issued("name = ?", name)

    def of_key(self, key: PublicKey) -> list[Issued]:
        """Certificates for this key, newest first."""
        return self._issued("key = ?", envelope.key_id_of(key))

    def of_token(self, id: str, key: PublicKey) -> list[Issued]:
        """Certificates that were given for a token to this key."""
        return self._issued("token = ? AND key = ?", id, envelope.key_id_of(key))

    def _issued(self, where: str, *values: object) -> list[Issued]:
        rows = self.database.execute(
            f"SELECT name, certificate, issued, revoked FROM certificates WHERE {where} ORDER BY issued DESC",
            values,
        )
        return [
            Issued(name, x509.load_der_x509_certificate(der), issued, revoked is not None)
            for name, der, issued, revoked in rows
        ]

    # ---- revocations

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        row = self.database.execute(
            "SELECT revoked FROM certificates WHERE serial = ?", (f"{certificate.serial_number:x}",)
        ).fetchone()
        return row is not None and row[0] is not None

    def revoke(self, name: str, now: float) -> None:
        """Revoke all certificates of a name that are on record."""
        self.database.execute(
            "UPDATE certificates SET revoked = ? WHERE name = ? AND revoked IS NULL", (now, name)
        )

    def revoked(self, since: float) -> list[tuple[int, float]]:
        """(serial number, when) of revoked certificates that had not ended by themselves at ``since``."""
        rows = self.database.execute(
            "SELECT serial, revoked FROM certificates WHERE revoked NOT NULL AND expires >= ? "
            "ORDER BY revoked",
            (since,),
        )
        return [(int(serial, 16), when) for serial, when in rows]

    def knows(self, serial: int) -> bool:
        """Whether a certificate with this serial number is on record."""
        row = self.database.execute(
            "SELECT 1 FROM certificates WHERE serial = ?", (f"{serial:x}",)
        ).fetchone()
        return row is not None

    def next_list(self, now: float, least: int = 1) -> int:
        """The number of a new list of revoked certificates, taken down as written now."""
        last: int = self.database.execute("SELECT coalesce(max(number), 0) FROM lists").fetchone()[0]
        number = max(last + 1, least)
        self.database.execute("INSERT INTO lists VALUES (?, ?)", (number, now))
        return number

    def last_list(self) -> float:
        """When the newest list was written; 0 before the first."""
        written: float | None = self.database.execute("SELECT max(written) FROM lists").fetchone()[0]
        return written or 0.0


@contextmanager
def open_registry(folder: Path) -> Iterator[Registry]:
    """The records of the authority in ``folder``. Raises StorageError, also when they are damaged."""
    with closing(open_database(folder / "enrolment.db", _SCHEMA, anew=False)) as database:
        yield Registry(database)


def _hash(token: Token) -> bytes:
    # 128 random bits: nobody finds them by trying, so no slow hash is needed.
    return hashlib.sha256(token.secret.encode()).digest()
