"""``marram enrol``: a device gets its identity. It may be broken off anywhere, and goes on when run again.

The order of what is written makes that so: the key first, before anybody hears of it, as the server gives the
same certificate again for the same key and token; the certificate last, for with it the identity is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from marram.enrolment import est
from marram.enrolment.est import Client, EnrolmentError, UnreachableError
from marram.errors import StorageError, WireError
from marram.link.identity import (
    AUTHORITY,
    CERTIFICATE,
    ENROLMENT,
    KEY,
    ROOT,
    Enrolment,
    authority_tls,
    is_enrolled,
)
from marram.link.keys import file
from marram.link.keys.key import FILE, DeviceKey, open_key
from marram.link.mqtt import full_jitter
from marram.link.server import EXPECTED, read_server
from marram.storage import create_file, replace_file, sync_folder
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram.wire.tokens import Token
from marram.wire.topics import check_name

_BACKOFF_FIRST, _BACKOFF_LAST = 1.0, 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What the operator asks for. url: of the enrolment server. key: its source, see ``link.keys.key``.

    patience: seconds that a server which does not answer is asked again.
    """

    url: str
    token: str
    name: str
    folder: Path
    key: str = FILE
    patience: float = 600.0


@dataclass(frozen=True)
class Enrolled:
    """What the device is now. has_root: whether it can receive releases."""

    subject: Subject
    certificate: x509.Certificate
    has_root: bool


def enrol(wanted: Wanted, say: Callable[[str], None]) -> Enrolled:
    """Make the identity folder. say: told about each attempt that failed and is made again.

    Raises EnrolmentError, IdentityError or StorageError; another call goes on where this one stopped.
    """
    folder = wanted.folder
    if is_enrolled(folder):
        raise EnrolmentError(
            f"{folder}: holds an identity already, which is not overwritten; to enrol this device anew, "
            "stop the agent and move the folder away"
        )
    try:
        token = Token.parse(wanted.token)
        url = _checked_url(wanted.url)
        name = check_name("device", wanted.name)
    except ValueError as error:
        raise EnrolmentError(str(error)) from error
    key = _key(folder, wanted.key)
    request = est.request(name, key.private)

    def ask() -> tuple[x509.Certificate, x509.Certificate, bytes | None]:
        authority = est.fetch_authority(url, token)
        client = Client(url, authority_tls(authority))
        # Before the token is used up, so that little can go wrong after it.
        root = client.root()
        return authority, client.enrol(name, str(token), request), root

    authority, certificate, root = _patiently(ask, wanted.patience, say)
    subject = check_issued(certificate, authority, name)
    _write(folder, authority, root, Enrolment(url, wanted.key), certificate)
    return Enrolled(subject, certificate, root is not None)


def check_issued(certificate: x509.Certificate, authority: x509.Certificate, name: str) -> Subject:
    """Whose certificate the server gave. Raises EnrolmentError when it is not of the device ``name``."""
    try:
        certificate.verify_directly_issued_by(authority)
        subject = certificates.subject_of(certificate)
    except WireError as error:
        raise EnrolmentError(f"the server gave a certificate that no device can use: {error}") from error
    except Exception as error:
        raise EnrolmentError("the server gave a certificate of another authority than its own") from error
    if (subject.role, subject.name) != ("device", name):
        raise EnrolmentError(f"the server gave the certificate of {subject.uri}, not of the device {name!r}")
    return subject


def _checked_url(url: str) -> str:
    try:
        return read_server(url)
    except ValueError as error:
        raise ValueError(str(error) or f"{url!r}: expected {EXPECTED}") from error


def _key(folder: Path, source: str) -> DeviceKey:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror}") from error
    if source == FILE and not (folder / KEY).exists():
        create_file(folder / KEY, file.pem(file.generate()), 0o600)
    return open_key(source, folder / KEY)


def _patiently(ask: Callable[[], T], patience: float, say: Callable[[str], None]) -> T:
    end, longest = time.monotonic() + patience, _BACKOFF_FIRST
    while True:
        try:
            return ask()
        except UnreachableError as error:
            pause = max(error.after, full_jitter(longest))
            if time.monotonic() + pause > end:
                raise
            say(f"{error}; trying again in {pause:.0f} s")
        time.sleep(pause)
        longest = min(longest * 2, _BACKOFF_LAST)


def _write(
    folder: Path,
    authority: x509.Certificate,
    root: bytes | None,
    enrolment: Enrolment,
    certificate: x509.Certificate,
) -> None:
    replace_file(folder / AUTHORITY, authority.public_bytes(Encoding.PEM))
    if root is not None:
        replace_file(folder / ROOT, root)
    # A key's URI may hold a PIN.
    replace_file(folder / ENROLMENT, msgspec.json.encode(enrolment) + b"\n", 0o600)
    if not create_file(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM)):
        raise EnrolmentError(f"{folder / CERTIFICATE}: was written by somebody else meanwhile")
