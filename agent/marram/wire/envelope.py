"""The envelope: every message that changes state is a COSE_Sign1 (RFC 9052, section 4.2).

``[protected, unprotected, payload, signature]`` under CBOR tag 18. The signature covers the protected
header, the payload and, as ``external_aad``, the UTF-8 bytes of the MQTT topic, so that a message cannot
be moved to another topic. ES256 is ECDSA on P-256 with SHA-256, its signature r and s of 32 bytes each
(RFC 9053, section 2.1); EdDSA is Ed25519 (RFC 9053, section 2.2).

Protected header, every label but the last two always there:

======== ================= =========================================================================
label    value             meaning
======== ================= =========================================================================
1        int               algorithm: -7 ES256, -8 EdDSA
3        text              content type, the kind of message in the payload
4        bytes (32)        key id: sha256 of the signer's DER certificate, or of the DER
                           SubjectPublicKeyInfo of a key that has none
-65537   text              fleet
-65538   text              sender: the device's name, or the aggregator's
-65539   unsigned          counter: rises with every message of this sender
-65540   unsigned          round
-65541   bytes (32)        base: sha256 of the parameters that the payload builds on
======== ================= =========================================================================

Labels below -65536 are for private use (RFC 9052, section 11.1). The unprotected header is empty or
holds the signer's certificate and its issuers as x5chain (RFC 9360, label 33); its first certificate
must be the one that the protected key id names. Nothing else is allowed in either header. Whether a
certificate is trusted, and whether its holder may say this, is judged by the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from marram.errors import WireError
from marram.wire import cbor, reasons

ES256 = -7
EDDSA = -8

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_SIGN1_TAG = 18
_ALGORITHM, _CONTENT_TYPE, _KEY_ID, _X5CHAIN = 1, 3, 4, 33
_FLEET, _SENDER, _COUNTER, _ROUND, _BASE = -65537, -65538, -65539, -65540, -65541
_NEEDED = {_ALGORITHM, _CONTENT_TYPE, _KEY_ID, _FLEET, _SENDER, _COUNTER}
_OPTIONAL = {_ROUND, _BASE}
_MAX_CHAIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the signer says of a message; the module's docstring has the meaning of each field.

    key_id: 32 bytes; ``seal`` refuses one that is not the signer's. base: 32 bytes or None.
    """

    content_type: str
    fleet: str
    sender: str
    counter: int
    key_id: bytes
    round: int | None = None
    base: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A parsed envelope, not verified yet: nothing in it may be believed before ``verify``.

    chain: DER certificates, the signer's first; may be empty. protected: the signed header's bytes.
    """

    header: Header
    payload: bytes
    chain: tuple[bytes, ...]
    algorithm: int
    signature: bytes
    protected: bytes


class Signer(Protocol):
    """A private key that may live in a file, a TPM or behind PKCS#11.

    key_id: as in ``Header``. algorithm: ES256 or EDDSA.
    """

    @property
    def key_id(self) -> bytes: ...

    @property
    def algorithm(self) -> int: ...

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature over ``data``; for ES256 r and s, big-endian, not DER."""
        ...


class KeySigner:
    """Signs with a private key of the cryptography package, P-256 or Ed25519.

    certificate: the key's certificate in DER, from which the key id comes; without one the key id is
    that of the public key. Raises ValueError for a key of another kind.
    """

    def __init__(self, key: PrivateKey, certificate: bytes | None = None) -> None:
        self._key = key
        self.algorithm = algorithm_of(key.public_key())
        self.key_id = key_id_of(key.public_key()) if certificate is None else digest(certificate)

    def sign(self, data: bytes) -> bytes:
        """64 bytes, as ``Signer.sign``."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def digest(data: bytes) -> bytes:
    """sha256: the identity of parameters, certificates and sealed messages."""
    return hashlib.sha256(data).digest()


def key_id_of(key: PublicKey) -> bytes:
    """The key id of a key without a certificate: sha256 of its DER SubjectPublicKeyInfo."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return digest(key.public_bytes(serialization.Encoding.DER, form))


def algorithm_of(key: PublicKey) -> int:
    """The COSE algorithm that goes with a key. Raises ValueError unless it is P-256 or Ed25519."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return ES256
    if isinstance(key, ed25519.Ed25519PublicKey):
        return EDDSA
    raise ValueError(f"{type(key).__name__} cannot sign messages: use a P-256 or an Ed25519 key")


def seal(payload: bytes, header: Header, topic: str, signer: Signer, chain: Sequence[bytes] = ()) -> bytes:
    """The signed bytes of a message for ``topic``.

    chain: DER certificates to send along, the signer's first; empty where the other side knows it.
    Raises ValueError if the header's key id is not the signer's.
    """
    if header.key_id != signer.key_id:
        raise ValueError("the header names another key than the one that signs")
    fields: dict[int, Any] = {
        _ALGORITHM: signer.algorithm,
        _CONTENT_TYPE: header.content_type,
        _KEY_ID: header.key_id,
        _FLEET: header.fleet,
        _SENDER: header.sender,
        _COUNTER: header.counter,
        _ROUND: header.round,
        _BASE: header.base,
    }
    protected = cbor.encode({label: value for label, value in fields.items() if value is not None})
    # RFC 9360: one certificate stands alone, more are an array.
    unprotected = {_X5CHAIN: chain[0] if len(chain) == 1 else list(chain)} if chain else {}
    return sign1(protected, unprotected, payload, topic.encode(), signer)


def parse(data: bytes, max_size: int) -> Sealed:
    """The envelope in ``data``, strictly read, its signature not yet checked.

    max_size: most bytes that a message of its kind may have.
    Raises WireError(TOO_LARGE) or WireError(MALFORMED).
    """
    if len(data) > max_size:
        raise WireError(reasons.TOO_LARGE, f"{len(data)} bytes, at most {max_size} are allowed here")
    protected, unprotected, payload, signature = open1(data)
    fields = _protected_fields(protected)
    if unknown := fields.keys() - _NEEDED - _OPTIONAL:
        raise _malformed(
            f"the protected header has labels that are not known: {sorted(map(str, unknown))!s:.100}"
        )
    if absent := _NEEDED - fields.keys():
        raise _malformed(f"the protected header lacks the labels {sorted(absent)}")
    algorithm = fields[_ALGORITHM]
    if algorithm not in (ES256, EDDSA):
        raise _malformed(f"algorithm {algorithm!r:.50} is neither ES256 nor EdDSA")
    if len(signature) != 64:
        raise _malformed(f"the signature has {len(signature)} bytes, not 64")
    header = Header(
        content_type=_text(fields, _CONTENT_TYPE),
        fleet=_text(fields, _FLEET),
        sender=_text(fields, _SENDER),
        counter=_unsigned(fields, _COUNTER),
        key_id=_digest(fields, _KEY_ID),
        round=_unsigned(fields, _ROUND) if _ROUND in fields else None,
        base=_digest(fields, _BASE) if _BASE in fields else None,
    )
    chain = _chain(unprotected)
    if chain and digest(chain[0]) != header.key_id:
        raise _malformed("the first certificate is not the one that the key id names")
    return Sealed(header, payload, chain, algorithm, signature, protected)


def verify(sealed: Sealed, topic: str, key: PublicKey) -> None:
    """Checks that ``key`` signed this message for ``topic``.

    Raises WireError(BAD_SIGNATURE), also when the algorithm is not the one that goes with the key.
    """
    data = sig_structure(sealed.protected, topic.encode(), sealed.payload)
    _check_signature(sealed.algorithm, sealed.signature, data, key)


def sig_structure(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """The bytes that are signed: Sig_structure of RFC 9052, section 4.4."""
    return cbor.encode(["Signature1", protected, external_aad, payload])


def sign1(
    protected: bytes, unprotected: Mapping[int, Any], payload: bytes, external_aad: bytes, signer: Signer
) -> bytes:
    """Any COSE_Sign1, tagged. protected: the encoded header, whose algorithm must be the signer's."""
    signature = signer.sign(sig_structure(protected, external_aad, payload))
    return cbor.encode(cbor.Tagged(_SIGN1_TAG, [protected, dict(unprotected), payload, signature]))


def open1(data: bytes) -> tuple[bytes, dict[int | str, Any], bytes, bytes]:
    """Any COSE_Sign1: (protected, unprotected, payload, signature), of the right types, not verified.

    Raises WireError(MALFORMED).
    """
    message = cbor.decode(data, tags=(_SIGN1_TAG,))
    if not isinstance(message, cbor.Tagged):
        raise _malformed("no COSE_Sign1 tag")
    match message.value:
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature]:
            return protected, unprotected, payload, signature
    raise _malformed("a COSE_Sign1 is an array of bytes, map, bytes and bytes")


def verify1(data: bytes, external_aad: bytes, key: PublicKey) -> bytes:
    """The payload of any COSE_Sign1 that ``key`` signed, its algorithm in the protected header.

    Raises WireError(MALFORMED) or WireError(BAD_SIGNATURE).
    """
    protected, _, payload, signature = open1(data)
    algorithm = _protected_fields(protected).get(_ALGORITHM)
    _check_signature(algorithm, signature, sig_structure(protected, external_aad, payload), key)
    return payload


def _check_signature(algorithm: object, signature: bytes, data: bytes, key: PublicKey) -> None:
    try:
        expected = algorithm_of(key)
    except ValueError as error:
        raise WireError(reasons.BAD_SIGNATURE, str(error)) from None
    if algorithm != expected:
        raise WireError(
            reasons.BAD_SIGNATURE, f"algorithm {algorithm!r:.50} does not go with the sender's key"
        )
    if len(signature) != 64:
        raise WireError(reasons.BAD_SIGNATURE, f"the signature has {len(signature)} bytes, not 64")
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        message = "the signature does not fit: message or topic is not what was signed, or another key signed"
        raise WireError(reasons.BAD_SIGNATURE, message) from None


def _malformed(what: str) -> WireError:
    return WireError(reasons.MALFORMED, f"not a sealed message: {what}")


def _protected_fields(protected: bytes) -> dict[int | str, Any]:
    fields = cbor.decode(protected) if protected else {}
    if not isinstance(fields, dict):
        raise _malformed("the protected header is no map")
    if protected and cbor.encode(fields) != protected:
        raise _malformed("the protected header is not in deterministic encoding")
    return fields


def _text(fields: Mapping[int | str, Any], label: int) -> str:
    value = fields[label]
    if not isinstance(value, str) or not 1 <= len(value) <= 100:
        raise _malformed(f"header label {label} is no text of 1 to 100 letters")
    return value


def _unsigned(fields: Mapping[int | str, Any], label: int) -> int:
    value = fields[label]
    if type(value) is not int or not 0 <= value <= 1 << 53:
        raise _malformed(f"header label {label} is no whole number from 0 to 2^53")
    return value


def _digest(fields: Mapping[int | str, Any], label: int) -> bytes:
    value = fields[label]
    if not isinstance(value, bytes) or len(value) != 32:
        raise _malformed(f"header label {label} is no sha256")
    return value


def _chain(unprotected: Mapping[int | str, Any]) -> tuple[bytes, ...]:
    if not unprotected:
        return ()
    if unprotected.keys() != {_X5CHAIN}:
        raise _malformed("the unprotected header may hold certificates only")
    match unprotected[_X5CHAIN]:
        case bytes() as one:
            return (one,)
        case list() as more if 2 <= len(more) <= _MAX_CHAIN and all(isinstance(c, bytes) for c in more):
            return tuple(more)
    raise _malformed(f"x5chain is neither one certificate nor an array of 2 to {_MAX_CHAIN}")
