"""Rows of devices' certificates, as the ledger and its migration write them."""

from __future__ import annotations

import sqlite3

from cryptography import x509
from marram.wire import certificates


def add_certificate(
    database: sqlite3.Connection, device: str, certificate: x509.Certificate, now: float
) -> None:
    """One more certificate of a device; nothing when it is there already."""
    database.execute(
        "INSERT OR IGNORE INTO certificates VALUES (?, ?, ?, ?, ?, ?)",
        (
            certificates.key_id(certificate),
            device,
            serial_text(certificate.serial_number),
            certificate.not_valid_after_utc.timestamp(),
            now,
            certificates.der(certificate),
        ),
    )


def serial_text(serial: int) -> str:
    """A serial number (up to 159 bits) as it stands in a database."""
    return f"{serial:x}"
