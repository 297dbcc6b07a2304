"""A message in its envelope: from a struct to sealed bytes and back, with every check in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from cryptography import x509

from marram.errors import WireError
from marram.wire import cbor, certificates, envelope, reasons
from marram.wire.certificates import PublicKey, Subject
from marram.wire.envelope import Header, Sealed, Signer

Message = TypeVar("Message", bound=msgspec.Struct)

MAX_ENVELOPE = 64 << 20


def content_type(kind: type[msgspec.Struct]) -> str:
    """The COSE content type of a message: "marram/offer", "marram/delta" ..."""
    return f"marram/{kind.__name__.lower()}"


@dataclass
class Author:
    """Who seals: its subject and its key; ``chain`` holds DER certificates to send along.

    Whoever seals as one device shares one author, so that a renewed certificate is used by all at once. Used
    by one thread.
    """

    subject: Subject
    signer: Signer
    chain: tuple[bytes, ...] = ()

    def renew(self, signer: Signer, chain: tuple[bytes, ...]) -> None:
        """From now on seal with another key or certificate of the same subject."""
        self.signer, self.chain = signer, chain

    def seal(
        self,
        message: msgspec.Struct,
        topic: str,
        counter: int,
        round: int | None = None,
        base: bytes | None = None,
        introduce: bool = False,
    ) -> bytes:
        """The sealed bytes of a message for one topic; ``introduce`` adds the certificate."""
        header = Header(
            content_type=content_type(type(message)),
            fleet=self.subject.fleet,
            sender=self.subject.name,
            counter=counter,
            round=round,
            base=base,
            key_id=self.signer.key_id,
        )
        chain: Sequence[bytes] = self.chain if introduce else ()
        return envelope.seal(cbor.pack(message), header, topic, self.signer, chain)


def read(sealed: Sealed, kind: type[Message]) -> Message:
    """The message inside a sealed one that was verified. Raises WireError(WRONG_KIND, MALFORMED)."""
    if sealed.header.content_type != content_type(kind):
        raise WireError(
            reasons.WRONG_KIND, f"expected {content_type(kind)}, found {sealed.header.content_type!r}"
        )
    return cbor.unpack(sealed.payload, kind)


class AggregatorTrust:
    """What a device believes: messages of its own region's aggregator, below its fleet's authority.

    An aggregator introduces itself by the certificate in its offer; later messages name it by key id.
    """

    def __init__(self, authority: x509.Certificate, fleet: str, region: str) -> None:
        self._authority = authority
        self._fleet, self._region = fleet, region
        self._known: dict[bytes, tuple[x509.Certificate, PublicKey]] = {}

    def open(self, data: bytes, topic: str, kind: type[Message], now: float) -> tuple[Message, Header]:
        """Verify and read. Raises WireError with the reason of the refusal."""
        sealed = envelope.parse(data, MAX_ENVELOPE)
        if sealed.header.fleet != self._fleet:
            raise WireError(reasons.WRONG_FLEET, f"signed for fleet {sealed.header.fleet!r}")
        certificate, key = self._known.get(sealed.header.key_id) or self._introduced(sealed)
        certificates.check_issued(certificate, self._authority, now)
        envelope.verify(sealed, topic, key)
        self._known[sealed.header.key_id] = certificate, key
        return read(sealed, kind), sealed.header

    def _introduced(self, sealed: Sealed) -> tuple[x509.Certificate, PublicKey]:
        if not sealed.chain:
            raise WireError(reasons.UNKNOWN_DEVICE, "signed by a key that was not introduced yet")
        certificate = certificates.load(sealed.chain[0])
        if certificates.key_id(certificate) != sealed.header.key_id:
            raise WireError(reasons.MALFORMED, "the key id is not that of the certificate in the message")
        subject = certificates.subject_of(certificate)
        if (subject.fleet, subject.region, subject.role) != (self._fleet, self._region, "aggregator"):
            raise WireError(reasons.WRONG_SENDER, f"{subject.uri} is not this region's aggregator")
        return certificate, certificates.public_key(certificate)
