"""Who this device is: its key, its certificate, and whom it believes.

An identity is a folder, as ``marram enrol`` or ``marram-cloud enrol`` writes it: ``device.key`` (PEM, P-256,
mode 0600; not there where the key is elsewhere), ``device.crt``, ``ca.crt`` (the fleet's authority),
``enrolment.json`` (where it came from, for renewals) and ``root.json`` (the root that releases are trusted
by, The Update Framework); without the last no releases are followed.

A renewal changes key and certificate together. Both are then links into a folder that ``current`` links to,
so that one rename changes both.
"""

from __future__ import annotations

import os
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from marram.errors import IdentityError, StorageError, WireError
from marram.link.keys import file
from marram.link.keys.key import FILE, SOURCE, DeviceKey, open_key
from marram.storage import replace_file, sync_folder
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram.wire.envelope import KeySigner
from marram.wire.signed import Author

KEY, CERTIFICATE, AUTHORITY, ROOT = "device.key", "device.crt", "ca.crt", "root.json"
ENROLMENT = "enrolment.json"
_CURRENT, _GENERATIONS = "current", "generations"


class Enrolment(msgspec.Struct, frozen=True):
    """``enrolment.json``. url: of the enrolment server. key: its source, see ``marram.link.keys.key``."""

    url: str = ""
    key: Annotated[str, msgspec.Meta(pattern=SOURCE)] = FILE


@dataclass(frozen=True)
class Identity:
    """A loaded identity."""

    folder: Path
    subject: Subject
    certificate: x509.Certificate
    authority: x509.Certificate
    key: DeviceKey
    enrolment: Enrolment

    @property
    def floor(self) -> float:
        """A time (Unix s) that certainly has passed: the certificate's start."""
        return self.certificate.not_valid_before_utc.timestamp()

    @property
    def expires(self) -> float:
        """Unix s."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def signer(self) -> KeySigner:
        return KeySigner(self.key.private, certificates.der(self.certificate))

    def author(self) -> Author:
        """Seals messages as this device; introduces itself by its certificate."""
        return Author(self.subject, self.signer, (certificates.der(self.certificate),))

    @property
    def root(self) -> Path:
        """The file of the releases' root."""
        return self.folder / ROOT

    def tls(self) -> ssl.SSLContext:
        """Mutual TLS with the fleet's authority as the only one that is believed. Raises IdentityError."""
        context = authority_tls(self.authority)
        self.key.use(context, self.folder / CERTIFICATE)
        return context


def authority_tls(authority: x509.Certificate) -> ssl.SSLContext:
    """TLS to servers of this authority and no other."""
    context = ssl.create_default_context(cadata=authority.public_bytes(Encoding.PEM).decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load(folder: Path, role: str = "device", key: str | None = None) -> Identity:
    """Read an identity folder. key: where the key is, instead of what ``enrolment.json`` says.

    Raises IdentityError naming the file and what to do.
    """
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
    enrolment = _enrolment(folder / ENROLMENT)
    source = key or enrolment.key
    opened = open_key(source, folder / KEY)
    if opened.private.public_key() != certificate.public_key():
        name = folder / KEY if source == FILE else f"key {source.partition('?')[0]}"
        raise IdentityError(f"{name}: does not belong to {CERTIFICATE} in {folder}")
    return Identity(folder, subject, certificate, authority, opened, enrolment)


def renew(identity: Identity, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> None:
    """Put a new certificate, and a new key where there is one, in the place of the old ones.

    A power cut at any moment leaves the old pair or the new one. Raises StorageError.
    """
    folder, pem = identity.folder, certificate.public_bytes(Encoding.PEM)
    if key is None:
        replace_file(folder / CERTIFICATE, pem)
        return
    try:
        _link(folder, _generation(folder, certificate, file.pem(key), pem))
        _forget(folder)
    except OSError as error:
        raise StorageError(f"{folder}: the new certificate cannot be stored: {error.strerror}") from error


def _generation(folder: Path, certificate: x509.Certificate, key: bytes, pem: bytes) -> Path:
    """A folder of its own for a key and its certificate, on disk when this returns."""
    made = folder / _GENERATIONS / f"{certificate.serial_number:x}"
    replace_file(made / KEY, key, 0o600)
    replace_file(made / CERTIFICATE, pem)
    sync_folder(made.parent)
    sync_folder(folder)
    return made


def _link(folder: Path, made: Path) -> None:
    """Have the names that everybody uses lead to this pair."""
    if not (folder / KEY).is_symlink() or not (folder / CERTIFICATE).is_symlink():
        first = folder / _GENERATIONS / "first"
        if not (folder / KEY).is_symlink():
            # Until now they were files: the same pair behind links first, the change is a step of its own.
            replace_file(first / KEY, (folder / KEY).read_bytes(), 0o600)
            replace_file(first / CERTIFICATE, (folder / CERTIFICATE).read_bytes())
            sync_folder(first.parent)
            _replace_link(folder / _CURRENT, first.relative_to(folder))
            _replace_link(folder / KEY, Path(_CURRENT) / KEY)
        _replace_link(folder / CERTIFICATE, Path(_CURRENT) / CERTIFICATE)
    _replace_link(folder / _CURRENT, made.relative_to(folder))


def _replace_link(path: Path, target: Path) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
    sync_folder(path.parent)


def _forget(folder: Path) -> None:
    """Take away the keys that are no longer in use: a key that is nowhere cannot be stolen."""
    current = (folder / _CURRENT).resolve()
    for one in (folder / _GENERATIONS).iterdir():
        if one.resolve() != current:
            shutil.rmtree(one, ignore_errors=True)


def _enrolment(path: Path) -> Enrolment:
    if not path.exists():
        return Enrolment()
    try:
        return msgspec.json.decode(_read(path), type=Enrolment)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IdentityError(f"{path}: is damaged: {error}; write it anew, see docs/identity.md") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(
            f"{path}: {error.strerror}; an identity folder is written by `marram enrol` on the device, which "
            "goes on where it stopped, or by `marram-cloud enrol`"
        ) from error


def _certificate(path: Path) -> x509.Certificate:
    content = _read(path)
    try:
        return x509.load_pem_x509_certificate(content)
    except Exception as error:  # those of cryptography have no kind in common
        raise IdentityError(f"{path}: is not a PEM certificate: {error}") from error


def is_enrolled(folder: Path) -> bool:
    """Whether there is an identity: the certificate comes last."""
    return os.path.lexists(folder / CERTIFICATE)
