"""Ledgers of older versions of Marram: what has to change in them before they can be used.

The number of a ledger's form is SQLite's ``user_version``:

- 0: a device has one certificate, in its row.
- 1: a device has several, in a table of their own; serial numbers that were revoked have one too.
- 2: a round says whether devices are to tell the ranges of their activations.
"""

from __future__ import annotations

import sqlite3

from cryptography import x509
from marram.errors import StorageError
from marram.storage import transaction

from marram_cloud.ledger.devices import add_certificate

FORM = 2


def migrate(database: sqlite3.Connection) -> None:
    """Bring a ledger to the form of today, whole or not at all. Raises StorageError for one of tomorrow."""
    with transaction(database):
        form = database.execute("PRAGMA user_version").fetchone()[0]
        if form > FORM:
            raise StorageError(
                f"the ledger was written by a newer Marram (form {form}, this one knows {FORM}); "
                "install that version again, or bring back a copy from before"
            )
        columns = {row[1] for row in database.execute("PRAGMA table_info(devices)")}
        if form < 1 and "key_id" in columns:
            _give_certificates_a_table(database)
        if "ranges" not in {row[1] for row in database.execute("PRAGMA table_info(rounds)")}:
            database.execute("ALTER TABLE rounds ADD COLUMN ranges BLOB")
        database.execute(f"PRAGMA user_version = {FORM}")


def _give_certificates_a_table(database: sqlite3.Connection) -> None:
    rows = database.execute("SELECT name, certificate, enrolled, revoked FROM devices").fetchall()
    for name, der, enrolled, revoked in rows:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except ValueError as error:
            raise StorageError(f"the certificate of device {name!r} in it is damaged: {error}") from error
        add_certificate(database, name, certificate, enrolled)
        if revoked is not None:
            database.execute(
                "INSERT OR IGNORE INTO revoked SELECT serial, ? FROM certificates WHERE device = ?",
                (revoked, name),
            )
    database.execute("ALTER TABLE devices RENAME TO old_devices")
    database.execute(
        "CREATE TABLE devices (name TEXT PRIMARY KEY, enrolled REAL NOT NULL, "
        "counter INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID"
    )
    database.execute("INSERT INTO devices SELECT name, enrolled, counter FROM old_devices")
    database.execute("DROP TABLE old_devices")
