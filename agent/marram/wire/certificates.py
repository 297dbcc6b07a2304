"""Who a certificate speaks for: fleet, region, role and name, in a URI of its subject alternative name.

The URI is ``marram://<fleet>/<region>/<role>/<name>``. Roles: "device" may send deltas, "aggregator" may
offer rounds. A certificate counts only below the fleet's own certificate authority.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from marram.errors import WireError
from marram.wire import reasons
from marram.wire.topics import check_name

ROLES = ("device", "aggregator")
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a key."""

    fleet: str
    region: str
    role: str
    name: str

    @property
    def uri(self) -> str:
        return f"marram://{self.fleet}/{self.region}/{self.role}/{self.name}"


def parse_uri(uri: str) -> Subject:
    """Raises ValueError when the URI is not one of Marram's."""
    head, _, path = uri.partition("://")
    parts = path.split("/")
    if head != "marram" or len(parts) != 4 or parts[2] not in ROLES:
        raise ValueError(f"{uri!r} is not marram://fleet/region/role/name")
    for kind, name in zip(("fleet", "region", "role", "device"), parts, strict=True):
        check_name(kind, name)
    return Subject(*parts)


def load(content: bytes) -> x509.Certificate:
    """A certificate in DER that somebody sent. Raises WireError(MALFORMED)."""
    try:
        return x509.load_der_x509_certificate(content)
    except Exception as error:  # those of cryptography have no kind in common, and whoever sends may choose
        raise WireError(reasons.MALFORMED, f"the certificate in the message is damaged: {error}") from error


def subject_of(certificate: x509.Certificate) -> Subject:
    """The Marram subject of a certificate. Raises WireError(UNKNOWN_DEVICE) when it has none."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        return next(parse_uri(uri) for uri in uris if uri.startswith("marram://"))
    except Exception as error:  # as in ``load``: extensions are read only here
        raise WireError(
            reasons.UNKNOWN_DEVICE, f"the certificate carries no usable marram:// URI: {error}"
        ) from error


def key_id(certificate: x509.Certificate) -> bytes:
    """The COSE ``kid``: sha256 of the DER certificate (32 bytes)."""
    return certificate.fingerprint(hashes.SHA256())


def public_key(certificate: x509.Certificate) -> PublicKey:
    """The key, if it is of a type that Marram signs with: P-256 or Ed25519.

    Raises WireError(UNKNOWN_DEVICE).
    """
    try:
        key = certificate.public_key()
    except Exception as error:  # as in ``load``: the key is read only here
        raise WireError(reasons.UNKNOWN_DEVICE, f"the certificate's key cannot be read: {error}") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise WireError(reasons.UNKNOWN_DEVICE, "the certificate's key is neither P-256 nor Ed25519")


def check_issued(certificate: x509.Certificate, authority: x509.Certificate, now: float) -> None:
    """Raise WireError(UNKNOWN_DEVICE) unless ``authority`` signed the certificate, and as ``check_valid``."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise WireError(
            reasons.UNKNOWN_DEVICE, "the certificate was not issued by this fleet's authority"
        ) from error
    check_valid(certificate, now)


def check_valid(certificate: x509.Certificate, now: float) -> None:
    """Raise WireError(EXPIRED) unless the certificate is valid at ``now`` (Unix s)."""
    moment = datetime.fromtimestamp(now, UTC)
    if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
        raise WireError(
            reasons.EXPIRED,
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and it is {moment:%Y-%m-%d} here",
        )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
