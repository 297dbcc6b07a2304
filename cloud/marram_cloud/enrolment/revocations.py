"""Makes the authority's list of revoked certificates (CRL, RFC 5280, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from marram_cloud.enrolment.authority import Authority

# A broker that honours lists lets nobody in once its list is older than that: long, and renewed early.
DAYS = 365
_SKEW = timedelta(hours=1)


def make(authority: Authority, revoked: Iterable[tuple[int, float]], number: int, now: float) -> bytes:
    """The list in PEM. revoked: (serial number, when, Unix s)."""
    moment = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(moment - _SKEW)
        .next_update(moment + timedelta(days=DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    for serial, when in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(
            entry.revocation_date(datetime.fromtimestamp(when, UTC)).build()
        )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)
