"""How a device becomes known: by its retained report, which carries its certificate.

No list of devices is kept by hand: whom the fleet's authority gave a certificate for this region, and whom
it did not revoke, may take part. Nothing here changes the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from marram.errors import WireError
from marram.wire import certificates, envelope, reasons
from marram.wire.messages import Report
from marram.wire.signed import read
from marram.wire.topics import Topics

MAX_REPORT = 32 << 10


@dataclass(frozen=True, slots=True)
class Introduction:
    """A verified report. counter: of its header, rises with each report of the device."""

    device: str
    certificate: x509.Certificate
    report: Report
    counter: int


def introduced(
    authority: x509.Certificate, topics: Topics, sender: str, payload: bytes, now: float
) -> Introduction:
    """Read what stands on ``topics.report(sender)``; whether the certificate was revoked is not looked at.

    Raises WireError with the reason of the refusal.
    """
    sealed = envelope.parse(payload, MAX_REPORT)
    header = sealed.header
    if header.fleet != topics.fleet:
        raise WireError(reasons.WRONG_FLEET, f"signed for fleet {header.fleet!r}")
    if not sealed.chain:
        raise WireError(reasons.UNKNOWN_DEVICE, "the report does not carry its certificate")
    certificate = certificates.load(sealed.chain[0])
    certificates.check_issued(certificate, authority, now)
    subject = certificates.subject_of(certificate)
    expected = certificates.Subject(topics.fleet, topics.region, "device", sender)
    if subject != expected or header.sender != sender:
        raise WireError(
            reasons.WRONG_SENDER, f"signed by {subject.uri}, sent as {header.sender}, under {expected.uri}"
        )
    envelope.verify(sealed, topics.report(sender), certificates.public_key(certificate))
    return Introduction(sender, certificate, read(sealed, Report), header.counter)
