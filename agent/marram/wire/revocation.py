"""The authority's list of revoked certificates (CRL, RFC 5280, section 5), as both sides read it.

Whoever is named there is not believed any more, although its certificate is still valid. A list replaces
an older one by its number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from marram.errors import WireError
from marram.wire import reasons


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that the authority signed.

    number: rises with every list. serials: of the revoked certificates. until: when a newer one is due.
    der: the list itself.
    """

    number: int
    serials: frozenset[int]
    until: datetime
    der: bytes = field(repr=False)


def read(content: bytes, authority: x509.Certificate) -> RevocationList:
    """Read and verify a list in DER or PEM.

    Raises WireError(MALFORMED), or WireError(BAD_SIGNATURE) when another authority signed it.
    """
    try:
        pem = content.lstrip().startswith(b"-----BEGIN")
        found = x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        serials = frozenset(one.serial_number for one in found)
        until = found.next_update_utc
        der = found.public_bytes(Encoding.DER)
    except Exception as error:  # those of cryptography have no kind in common
        raise WireError(reasons.MALFORMED, f"not a list of revoked certificates: {error}") from error
    if not der.endswith(b"\0" + found.signature):
        # The one octet that nobody signs: how many bits of the signature's last octet do not count.
        raise WireError(reasons.MALFORMED, "the signature of the list of revoked certificates has odd bits")
    if until is None:
        raise WireError(
            reasons.MALFORMED, "the list of revoked certificates does not say when a newer is due"
        )
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not found.is_signature_valid(key):
        raise WireError(
            reasons.BAD_SIGNATURE, "the list of revoked certificates is not signed by this fleet's authority"
        )
    return RevocationList(number, serials, until, der)
