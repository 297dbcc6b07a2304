"""Who gets a certificate: the decisions behind simpleenroll and simplereenroll of EST (RFC 7030).

Each decision and its record are one transaction. An answer that was lost on a bad network costs nothing: the
same key with the same token (or the same old certificate) gets the same certificate again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from cryptography import x509
from marram.errors import WireError
from marram.wire import certificates
from marram.wire.certificates import PublicKey, Subject
from marram.wire.tokens import Token

from marram_cloud.enrolment.authority import Authority, EnrolmentError
from marram_cloud.enrolment.files import FleetFolder, check_device
from marram_cloud.enrolment.registry import Issued, Registry, StoredToken
from marram_cloud.enrolment.requests import RefusedError, read_request

# How long a lost answer is given again; a device on a workbench may be without power for a weekend.
AGAIN = 7 * 86400.0
# Certificates that a device gets in a day: one that has gone wild must not fill the records.
DAILY = 10
_DAY = 86400.0


class TokenError(RefusedError):
    """The token was refused: whoever sent it may be guessing."""


@dataclass
class EnrolmentService:
    """May be called from several threads."""

    folder: FleetFolder
    authority: Authority
    registry: Registry
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._fleet = self.folder.fleet

    def enrol(self, name: str, password: str, body: bytes, now: float) -> x509.Certificate:
        """The certificate of a device that brings a token. body: PKCS #10 in base64.

        Raises RefusedError, StorageError.
        """
        with self._lock, self.registry.transaction():
            token = self._token(password)
            if token.device not in (None, name):
                raise TokenError(403, "this token is for another device: use the name that it was made for")
            try:
                check_device(name)
            except EnrolmentError as error:
                raise RefusedError(400, str(error)) from error
            key = read_request(body, name)
            given = [one for one in self.registry.of_token(token.id, key) if one.name == name]
            if given and not token.withdrawn and now < given[0].issued + AGAIN:
                return _unless_revoked(given[0])
            self._check_open(token, now)
            if token.device is None and self.registry.of_device(name):
                raise RefusedError(
                    409,
                    f"there was a device {name!r} before: take another name, or ask the operator for a token "
                    f"for this device (marram-cloud enrolment token FLEET --device {name})",
                )
            return self._issue(name, key, now, token.id)

    def renew(self, peer: x509.Certificate, body: bytes, now: float) -> x509.Certificate:
        """A new certificate for a device that showed ``peer``, which TLS verified; the old one stays good.

        Raises RefusedError, StorageError.
        """
        try:
            subject = certificates.subject_of(peer)
        except WireError as error:
            raise RefusedError(403, f"the client's certificate names no device: {error}") from error
        if subject != self._subject(subject.name):
            raise RefusedError(403, f"{subject.uri} is no device of this fleet and region")
        with self._lock, self.registry.transaction():
            # The list and not the records: it outlives records that were lost.
            if peer.serial_number in self.folder.revocations().serials:
                raise RefusedError(
                    403,
                    "the client's certificate was revoked: ask the operator for a new token and enrol again",
                )
            key = read_request(body, subject.name)
            recent = [
                one for one in self.registry.of_device(subject.name)
                if one.issued > now - _DAY and one.certificate != peer
            ]  # fmt: skip
            for one in recent:
                if one.certificate.public_key() == key and not one.revoked:
                    return one.certificate
            if len(recent) >= DAILY:
                raise RefusedError(
                    429, f"{DAILY} certificates were given to {subject.name} within a day: try again tomorrow"
                )
            return self._issue(subject.name, key, now, None)

    def _token(self, password: str) -> StoredToken:
        try:
            token = Token.parse(password)
        except ValueError as error:
            raise TokenError(
                401, f"{error}; send it as the password, the device's name as the user"
            ) from error
        if not token.names(certificates.der(self.authority.certificate)):
            raise TokenError(401, "the token is of another fleet: use the address that belongs to the token")
        found = self.registry.token(token)
        if found is None:
            raise TokenError(401, f"no token {token.id} with this secret was ever made here: copy it again")
        return found

    def _check_open(self, token: StoredToken, now: float) -> None:
        state = token.state(now)
        if state != "open":
            raise TokenError(403, f"token {token.id} is {_WORDS[state]}: ask the operator for a new one")

    def _issue(self, name: str, key: PublicKey, now: float, token: str | None) -> x509.Certificate:
        if any(one.name != name for one in self.registry.of_key(key)):
            raise RefusedError(
                409, "this key belongs to another device already: make a new key on this one (a copied card?)"
            )
        certificate = self.authority.issue(self._subject(name), key, self._fleet.device_days)
        self.registry.record(name, certificate, now, token)
        return certificate

    def _subject(self, name: str) -> Subject:
        return Subject(self._fleet.fleet, self._fleet.region, "device", name)


_WORDS = {"withdrawn": "withdrawn", "used": "used up", "expired": "expired"}


def _unless_revoked(issued: Issued) -> x509.Certificate:
    if issued.revoked:
        raise RefusedError(
            403, f"the certificate of {issued.name} was revoked: ask the operator for a new token"
        )
    return issued.certificate
