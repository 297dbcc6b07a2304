"""An enrolment server that answers as a test wants: rightly, late, wrongly, or not at all.

The fleet's real one is in ``tests.support.enrolment``; this one does what that never should.

    with EstServer(fleet()) as server:
        token = server.token("device-1")
        server.faults += ["unavailable"]

Faults are used up one a request, before the server is right again: "unavailable" (503), "lost" (does what it
was asked to and never says so), "garbage", "other key", "stranger" (another authority issues), "other name".
"""

from __future__ import annotations

import base64
import http.server
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram.wire.tokens import Token
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.authority import Authority

from tests.support.identities import stranger

ROOT = b'{"signed": {"_type": "root", "version": 1}, "signatures": []}'


def issue(
    by: Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    start: timedelta,
    end: timedelta,
    fleet: str = "fleet",
    region: str = "region",
) -> x509.Certificate:
    """A device's certificate, valid from and to these times from now."""
    now = datetime.now(UTC)
    uri = x509.UniformResourceIdentifier(Subject(fleet, region, "device", name).uri)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(by.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(by.key, hashes.SHA256())
    )


class EstServer:
    """See the module's docstring. start, end: of the certificates that it issues, from now."""

    def __init__(
        self,
        by: Authority,
        root: bytes | None = ROOT,
        start: timedelta = timedelta(days=-1),
        end: timedelta = timedelta(days=90),
    ) -> None:
        self.by, self.root, self.start, self.end = by, root, start, end
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.issued: list[x509.Certificate] = []
        self._tokens: dict[str, str] = {}
        self._answered: dict[tuple[str, bytes], x509.Certificate] = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._get(self)

            def do_POST(self) -> None:
                server._post(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hangs up is what many tests are about."""

        self._http = Server(("127.0.0.1", 0), Handler)
        self._http.socket = self._tls().wrap_socket(
            self._http.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port: int = self._http.server_address[1]
        self.url = f"https://localhost:{self.port}"

    def _tls(self) -> ssl.SSLContext:
        key = authority.new_key()
        certificate = self.by.issue_server(("localhost",), key.public_key())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "server.pem"
            file.write_bytes(authority.private_pem(key) + certificate.public_bytes(Encoding.PEM))
            context.load_cert_chain(file)
        context.load_verify_locations(cadata=self.by.certificate.public_bytes(Encoding.PEM).decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def __enter__(self) -> EstServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def token(self, name: str) -> str:
        """A token for one device, good for one request, which may be repeated."""
        token = str(Token.new(certificates.der(self.by.certificate)))
        self._tokens[token] = name
        return token

    def _get(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, request.headers["Authorization"]))
        if request.path.endswith("/cacerts"):
            _send(request, 200, _certs_only(self.by.certificate))
        elif self.root is None:
            _send(request, 404, b"this fleet has no releases")
        else:
            _send(request, 200, self.root)

    def _post(self, request: http.server.BaseHTTPRequestHandler) -> None:
        content = request.rfile.read(int(request.headers["Content-Length"]))
        csr = x509.load_der_x509_csr(base64.b64decode(content))
        assert csr.is_signature_valid
        self.requests.append((request.path, request.headers["Authorization"]))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "unavailable":
            _send(request, 503, b"busy")
            return
        renews = request.path.endswith("/simplereenroll")
        certificate = (self._renewed if renews else self._enrolled)(request, csr)
        if certificate is None:
            _send(request, 401, b"the token was used, or is another device's")
        elif fault == "lost":
            request.connection.close()
        elif fault == "garbage":
            _send(request, 200, b"<html>")
        else:
            _send(request, 200, _certs_only(self._spoilt(fault, certificate)))

    def _enrolled(
        self, request: http.server.BaseHTTPRequestHandler, csr: x509.CertificateSigningRequest
    ) -> x509.Certificate | None:
        given = base64.b64decode((request.headers["Authorization"] or "").removeprefix("Basic ")).decode()
        name, _, token = given.partition(":")
        asked = token, csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if asked not in self._answered:
            if self._tokens.pop(token, None) != name or _name(csr.subject) != name:
                return None
            self._answered[asked] = self._issue(name, csr)
        return self._answered[asked]

    def _renewed(
        self, request: http.server.BaseHTTPRequestHandler, csr: x509.CertificateSigningRequest
    ) -> x509.Certificate | None:
        connection = request.connection
        assert isinstance(connection, ssl.SSLSocket)
        shown = connection.getpeercert(binary_form=True)
        if shown is None:
            return None
        old = x509.load_der_x509_certificate(shown)
        same: Callable[[object], object] = lambda of: (  # noqa: E731
            of.subject,
            of.extensions.get_extension_for_class(x509.SubjectAlternativeName).value,
        )
        return self._issue(_name(old.subject), csr) if same(old) == same(csr) else None

    def _issue(self, name: str, csr: x509.CertificateSigningRequest) -> x509.Certificate:
        certificate = issue(self.by, name, csr.public_key(), self.start, self.end)
        self.issued.append(certificate)
        return certificate

    def _spoilt(self, fault: str, right: x509.Certificate) -> x509.Certificate:
        by = stranger() if fault == "stranger" else self.by
        name = "somebody-else" if fault == "other name" else _name(right.subject)
        key = authority.new_key().public_key() if fault == "other key" else right.public_key()
        return issue(by, name, key, self.start, self.end) if fault else right


def _name(subject: x509.Name) -> str:
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _certs_only(certificate: x509.Certificate) -> bytes:
    return base64.encodebytes(pkcs7.serialize_certificates([certificate], Encoding.DER))


def _send(request: http.server.BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
