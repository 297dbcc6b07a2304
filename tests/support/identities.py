"""Keys and certificates of one fleet "fleet" with one region "region", made once for a whole test run."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram.wire.envelope import KeySigner
from marram.wire.signed import Author
from marram_cloud.enrolment import authority


@cache
def fleet() -> authority.Authority:
    with tempfile.TemporaryDirectory() as folder:
        return authority.create(Path(folder), "fleet")


@cache
def stranger() -> authority.Authority:
    """The authority of another fleet that bears the same name."""
    with tempfile.TemporaryDirectory() as folder:
        return authority.create(Path(folder), "fleet")


@cache
def certified(role: str, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate of the fleet and its key."""
    key = authority.new_key()
    return fleet().issue(Subject("fleet", "region", role, name), key.public_key()), key


def author(role: str, name: str) -> Author:
    certificate, key = certified(role, name)
    return author_of(certificate, key)


def author_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Author:
    der = certificates.der(certificate)
    return Author(certificates.subject_of(certificate), KeySigner(key, der), (der,))
