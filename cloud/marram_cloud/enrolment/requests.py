"""What a device asks for: a PKCS #10 request (RFC 2986) in base64, judged before anything is signed."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from marram.errors import MarramError
from marram.wire.certificates import PublicKey

MAX_REQUEST = 16 << 10


class RefusedError(MarramError):
    """A request that is not fulfilled. status: HTTP's; the message says what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_request(body: bytes, name: str) -> PublicKey:
    """The key that the request asks a certificate for, by whoever holds it and bears this name.

    Raises RefusedError.
    """
    if len(body) > MAX_REQUEST:
        raise RefusedError(413, f"the request has more than {MAX_REQUEST} bytes: this is no PKCS #10 request")
    try:
        request = x509.load_der_x509_csr(base64.b64decode(b"".join(body.split()), validate=True))
        found = [one.value for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key = request.public_key()
        signed = request.is_signature_valid
    except Exception as error:  # those of cryptography have no kind in common
        raise RefusedError(
            400, f"the body is not a PKCS #10 request (DER) in base64, without PEM lines: {error}"
        ) from error
    p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not (p256 or isinstance(key, ed25519.Ed25519PublicKey)):
        raise RefusedError(400, "the request's key is neither P-256 nor Ed25519: make a P-256 key")
    if not signed:
        raise RefusedError(400, "the request is not signed by the key in it: make it again")
    if found != [name]:
        raise RefusedError(
            400,
            f"the request's common name is {found!r:.100}: make it again with CN={name}, the device's name",
        )
    assert isinstance(key, PublicKey)
    return key
