"""Who this device is: its key, its certificate, and whom it believes.

An identity is a folder, as ``marram-cloud enrol`` writes it:
``device.key`` (PEM, P-256, mode 0600), ``device.crt``, ``ca.crt`` (the fleet's authority) and ``root.json``
(the root that releases are trusted by, The Update Framework); without the last no releases are followed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from marram.errors import MarramError, WireError
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram.wire.envelope import KeySigner, PrivateKey

KEY, CERTIFICATE, AUTHORITY, ROOT = "device.key", "device.crt", "ca.crt", "root.json"


class IdentityError(MarramError):
    """The identity folder is missing something or holds something that does not fit together."""


@dataclass(frozen=True)
class Identity:
    """A loaded identity. ``floor`` is a time (Unix s) that certainly has passed: the certificate's start."""

    folder: Path
    subject: Subject
    certificate: x509.Certificate
    authority: x509.Certificate
    signer: KeySigner

    @property
    def floor(self) -> float:
        return self.certificate.not_valid_before_utc.timestamp()

    @property
    def root(self) -> Path:
        """The file of the releases' root."""
        return self.folder / ROOT

    def tls(self) -> ssl.SSLContext:
        """Mutual TLS with the fleet's authority as the only one that is believed."""
        context = ssl.create_default_context(cafile=str(self.folder / AUTHORITY))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        return context


def load(folder: Path, role: str = "device") -> Identity:
    """Read an identity folder. Raises IdentityError naming the file and what to do."""
    certificate = _certificate(folder / CERTIFICATE)
    authority = _certificate(folder / AUTHORITY)
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception as error:
        raise IdentityError(
            f"{folder / CERTIFICATE}: was not issued by {AUTHORITY} beside it; enrol the device again"
        ) from error
    try:
        subject = certificates.subject_of(certificate)
    except WireError as error:
        raise IdentityError(f"{folder / CERTIFICATE}: {error}; enrol the device again") from error
    if subject.role != role:
        raise IdentityError(f"{folder}: is the identity of a {subject.role}; a {role}'s is needed here")
    key = _key(folder / KEY, lambda pem: load_pem_private_key(pem, None))
    if not isinstance(key, PrivateKey):
        raise IdentityError(f"{folder / KEY}: is neither a P-256 nor an Ed25519 key")
    if key.public_key() != certificate.public_key():
        raise IdentityError(f"{folder / KEY}: does not belong to {CERTIFICATE} beside it")
    signer = KeySigner(key, certificates.der(certificate))
    return Identity(folder, subject, certificate, authority, signer)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(
            f"{path}: {error.strerror}; an identity folder is written by `marram-cloud enrol`"
        ) from error


def _key(path: Path, load: Callable[[bytes], object]) -> object:
    try:
        return load(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path}: is not a key in PEM without a password: {error}") from error


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise IdentityError(f"{path}: is not a PEM certificate: {error}") from error
