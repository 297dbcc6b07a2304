"""A client of Enrollment over Secure Transport (EST, RFC 7030), on the standard library alone.

``POST /simpleenroll`` gives a device its first certificate for a one-time token, ``POST /simplereenroll`` a
new one for the old one; both take a PKCS#10 request in base64 and answer with a certs-only PKCS#7 in base64.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from marram.errors import MarramError
from marram.wire import certificates
from marram.wire.envelope import PrivateKey
from marram.wire.tokens import Token

_EST, _ROOT = "/.well-known/est", "/.well-known/marram/root.json"
_TIMEOUT = 30.0
_LARGEST = 256 << 10
_SHOWN = 300


class EnrolmentError(MarramError):
    """The server refused, or is not the right one; asking again gives the same answer."""


class UnreachableError(EnrolmentError):
    """No answer, or "later": worth another attempt. after: seconds that the server asks to wait, or 0."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


def request(name: str, key: PrivateKey, renewing: x509.Certificate | None = None) -> bytes:
    """A PKCS#10 request in DER. renewing: the certificate whose names are asked for again (section 4.2.2)."""
    common_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder()
    if renewing is None:
        builder = builder.subject_name(common_name)
    else:
        builder = builder.subject_name(renewing.subject)
        names = renewing.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        builder = builder.add_extension(names.value, critical=names.critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def fetch_authority(url: str, token: Token) -> x509.Certificate:
    """The fleet's authority, from a server that is not trusted yet: only what the token names is taken.

    Raises EnrolmentError.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answer = _Server(url, context).ask("GET", f"{_EST}/cacerts")
    for certificate in _certificates(url, answer):
        if token.names(certificates.der(certificate)):
            return certificate
    raise EnrolmentError(
        f"{url}: is not the server of the fleet that the token was made for (its authority is another one); "
        "compare the URL with the one that came with the token"
    )


@dataclass(frozen=True)
class Client:
    """An enrolment server that is verified. tls: ``link.identity.authority_tls`` or an identity's own."""

    url: str
    tls: ssl.SSLContext

    def enrol(self, name: str, token: str, request: bytes) -> x509.Certificate:
        """The certificate for a PKCS#10 request (DER). Raises EnrolmentError, UnreachableError."""
        secret = base64.b64encode(f"{name}:{token}".encode()).decode()
        return self._post("simpleenroll", request, {"Authorization": f"Basic {secret}"})

    def renew(self, request: bytes) -> x509.Certificate:
        """As ``enrol``, by the certificate that ``tls`` holds."""
        return self._post("simplereenroll", request, {})

    def root(self) -> bytes | None:
        """The TUF root that releases are checked against, None where there is none. Raises as ``enrol``."""
        try:
            content = _Server(self.url, self.tls).ask("GET", _ROOT)
        except _NotFoundError:
            return None
        try:
            if json.loads(content)["signed"]["_type"] == "root":
                return content
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise EnrolmentError(f"{self.url}: {_ROOT} is not a TUF root")

    def _post(self, what: str, request: bytes, headers: Mapping[str, str]) -> x509.Certificate:
        content = base64.encodebytes(request)
        sent = {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64", **headers}
        answer = _Server(self.url, self.tls).ask("POST", f"{_EST}/{what}", content, sent)
        asked = x509.load_der_x509_csr(request).public_key()
        for certificate in _certificates(self.url, answer):
            if certificate.public_key() == asked:
                return certificate
        raise EnrolmentError(f"{self.url}: answered {what} with a certificate for another key")


class _NotFoundError(EnrolmentError):
    pass


@dataclass(frozen=True)
class _Server:
    url: str
    context: ssl.SSLContext

    def ask(
        self, method: str, path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of a 200. Raises EnrolmentError or one of its kinds."""
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=_TIMEOUT, context=self.context
        )
        try:
            connection.request(method, path, content, dict(headers or {}))
            answer = connection.getresponse()
            body = answer.read(_LARGEST + 1)
        except ssl.SSLCertVerificationError as error:
            raise EnrolmentError(
                f"{self.url}: its certificate cannot be believed: {error.verify_message}; the URL must be "
                "one of the names in it, and this device's clock must be right"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self.url}: does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.OK and len(body) <= _LARGEST:
            return body
        raise self._refusal(path, answer, body)

    def _refusal(self, path: str, answer: http.client.HTTPResponse, body: bytes) -> EnrolmentError:
        said = " ".join(body[:_SHOWN].decode(errors="replace").split())
        said = "".join(letter for letter in said if letter.isprintable())
        text = f"{self.url}: {path.rpartition('/')[2]}: {answer.status} {said or answer.reason}"
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return _NotFoundError(text)
        if answer.status in (202, 408, 429) or answer.status >= 500:
            after = answer.headers.get("Retry-After", "")
            return UnreachableError(text, float(after) if after.isascii() and after.isdigit() else 0.0)
        if answer.status == http.HTTPStatus.OK:
            return EnrolmentError(f"{self.url}: {path}: the answer is longer than {_LARGEST} bytes")
        return EnrolmentError(text)


def _certificates(url: str, answer: bytes) -> list[x509.Certificate]:
    """Those in a certs-only PKCS#7 in base64 (section 4.1.3)."""
    try:
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(b"".join(answer.split()), validate=True))
    except Exception as error:  # those of cryptography have no kind in common
        raise EnrolmentError(
            f"{url}: answered with something else than certificates; is it an EST server? ({error})"
        ) from error
