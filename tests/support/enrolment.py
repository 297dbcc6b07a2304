"""An enrolment server as a real process, and what clients send to it, by stock tools and by hand.

with EnrolmentServer(FleetFolder(path), tmp_path) as server:
    server.url
"""

from __future__ import annotations

import base64
import http.client
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID
from marram_cloud.enrolment.files import FleetFolder

from tests.support.fleet import run
from tests.support.mosquitto import free_port
from tests.support.processes import Process, eventually

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def request(name: str, key: Key) -> bytes:
    """A PKCS #10 request, base64 of its DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)
    return base64.encodebytes(made.public_bytes(Encoding.DER))


def basic(name: str, token: str) -> dict[str, str]:
    """The header of HTTP Basic."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()}


def issued(body: bytes) -> x509.Certificate:
    """The certificate in an answer."""
    [certificate] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
    return certificate


class EnrolmentServer:
    """``marram-cloud enrolment serve`` on a free loopback port."""

    def __init__(self, fleet: FleetFolder, folder: Path) -> None:
        self.fleet, self.port = fleet, free_port()
        self.url = f"https://localhost:{self.port}"
        arguments = ["enrolment", "serve", str(fleet.path), "--listen", f"127.0.0.1:{self.port}"]
        self.process = Process("marram_cloud.cli", arguments, folder / "enrolment.log")

    def __enter__(self) -> EnrolmentServer:
        self.process.start()
        eventually("the enrolment server listens", lambda: self.process.said("enrolment of fleet"), 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def token(self, *arguments: object) -> str:
        """A new token, by the command of the operator."""
        done = run("marram_cloud.cli", "enrolment", "token", self.fleet.path, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        identity: tuple[Path, Path] | None = None,
    ) -> tuple[int, bytes]:
        """(status, body) of one request. identity: files with the client's certificate and key."""
        context = ssl.create_default_context(cafile=str(self.fleet.path / "ca.crt"))
        if identity is not None:
            context.load_cert_chain(*identity)
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        try:
            connection.request("GET" if body is None else "POST", f"/.well-known/{path}", body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
