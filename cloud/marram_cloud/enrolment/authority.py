"""The fleet's certificate authority, kept in files: made by ``marram-cloud init``, used by ``enrol``.

The authority's key is meant to live away from the aggregator once the fleet is real; the aggregator's own
folder holds only what it runs with.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from marram.errors import MarramError
from marram.wire.certificates import PublicKey, Subject

AGGREGATOR = "aggregator"
DEVICE_DAYS, LEAF_DAYS = 90, 730
_CA_YEARS = 20
_SKEW = timedelta(days=1)


class EnrolmentError(MarramError):
    """The authority's files are missing, there already, or do not fit."""


@dataclass(frozen=True)
class Authority:
    """A loaded authority; it can issue certificates for devices, aggregators and brokers."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(self, subject: Subject, key: PublicKey, days: float = LEAF_DAYS) -> x509.Certificate:
        """A certificate for a device or an aggregator. Raises EnrolmentError for a name that it may not have.

        The common name is the user name at the broker, whose rules know the aggregator by it: so nobody
        else ever gets it.
        """
        if (subject.name == AGGREGATOR) != (subject.role == "aggregator"):
            raise EnrolmentError(f"{subject.name!r} is no name for a certificate of role {subject.role!r}")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(subject.uri)]
        return self._sign(subject.name, names, [ExtendedKeyUsageOID.CLIENT_AUTH], key, days)

    def issue_server(self, hosts: tuple[str, ...], key: PublicKey) -> x509.Certificate:
        """A TLS server certificate for these DNS names and addresses; no client can be made of it."""
        names: list[x509.GeneralName] = [_host(host) for host in hosts]
        return self._sign(hosts[0], names, [ExtendedKeyUsageOID.SERVER_AUTH], key, LEAF_DAYS)

    def _sign(
        self,
        name: str,
        names: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
        key: PublicKey,
        days: float,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(min(now + timedelta(days=days), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )


def create(folder: Path, fleet: str) -> Authority:
    """Make a new authority in ``folder`` (``ca.key``, ``ca.crt``). Refuses to overwrite one."""
    if (folder / "ca.key").exists():
        raise EnrolmentError(f"{folder / 'ca.key'}: this fleet exists already; a new one needs a new folder")
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Marram fleet {fleet}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=365 * _CA_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / "ca.key", private_pem(key))
    (folder / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return Authority(certificate, key)


def load(folder: Path) -> Authority:
    """Raises EnrolmentError when ``folder`` holds no authority."""
    try:
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    except OSError as error:
        raise EnrolmentError(f"{error.filename}: {error.strerror}; run `marram-cloud init` first") from error
    except (ValueError, TypeError) as error:
        raise EnrolmentError(f"{folder}: ca.key or ca.crt is damaged: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise EnrolmentError(f"{folder / 'ca.key'}: is not the key of ca.crt beside it")
    return Authority(certificate, key)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner may read, from the first byte on. Raises EnrolmentError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise EnrolmentError(f"{path}: is there already and is not overwritten") from error
    except OSError as error:
        raise EnrolmentError(f"{path}: cannot be written: {error.strerror}") from error


def _host(host: str) -> x509.GeneralName:
    import ipaddress

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
