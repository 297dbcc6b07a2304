"""The enrolment server: EST (RFC 7030) over HTTPS, and the files that a new device needs.

``/.well-known/est/``: ``cacerts``, ``csrattrs``, ``simpleenroll``, ``simplereenroll``.
``/.well-known/marram/``: ``root.json`` (trust in releases), ``ca.crl`` (revoked certificates, DER).
Nothing of a token is logged but its id.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from marram.errors import MarramError
from marram.notify import notify
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from marram_cloud.enrolment import authority
from marram_cloud.enrolment.authority import EnrolmentError
from marram_cloud.enrolment.backoff import Backoff
from marram_cloud.enrolment.files import FleetFolder
from marram_cloud.enrolment.peer import PeerProtocol, peer_certificate
from marram_cloud.enrolment.requests import MAX_REQUEST, RefusedError
from marram_cloud.enrolment.service import EnrolmentService, TokenError

log = logging.getLogger(__name__)

_CERTIFICATES = "application/pkcs7-mime; smime-type=certs-only"
# CsrAttrs (RFC 7030, section 4.5.2): a key on P-256, the request signed by ECDSA with SHA-256.
_ATTRIBUTES = bytes.fromhex("3021 3015 06072a8648ce3d0201 310a 06082a8648ce3d030107 06082a8648ce3d040302")
_CONNECTIONS, _HEADERS = 256, 16 << 10
_PATIENCE = 30.0
_CHORES = 3600.0
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass
class Server:
    """The endpoints over one fleet."""

    folder: FleetFolder
    service: EnrolmentService
    backoff: Backoff = field(default_factory=Backoff)

    def routes(self) -> list[Route]:
        est, marram = "/.well-known/est", "/.well-known/marram"
        return [
            Route(f"{est}/cacerts", self._answered(self.cacerts)),
            Route(f"{est}/csrattrs", self._answered(self.csrattrs)),
            Route(f"{est}/simpleenroll", self._answered(self.simpleenroll), methods=["POST"]),
            Route(f"{est}/simplereenroll", self._answered(self.simplereenroll), methods=["POST"]),
            Route(f"{marram}/root.json", self._answered(self.root)),
            Route(f"{marram}/ca.crl", self._answered(self.crl)),
        ]

    async def cacerts(self, request: Request) -> Response:
        return _certificates(self.service.authority.certificate)

    async def csrattrs(self, request: Request) -> Response:
        return _base64(_ATTRIBUTES, "application/csrattrs")

    async def simpleenroll(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        wait = self.backoff.wait(address, time.monotonic())
        if wait > 0:
            return _text(
                429, "too many wrong tokens from this address: wait", **{"Retry-After": str(int(wait) + 1)}
            )
        name, password = _credentials(request)
        body = await _body(request)
        try:
            certificate = await run_in_threadpool(self.service.enrol, name, password, body, time.time())
        except TokenError:
            self.backoff.failed(address, time.monotonic())
            raise
        self.backoff.succeeded(address)
        log.info("enrolled %s from %s", name, address)
        return _certificates(certificate)

    async def simplereenroll(self, request: Request) -> Response:
        peer = peer_certificate(request)
        if peer is None:
            raise RefusedError(
                401,
                "show the device's certificate by TLS; one that has ended is renewed by simpleenroll only",
            )
        body = await _body(request)
        certificate = await run_in_threadpool(self.service.renew, peer, body, time.time())
        log.info("renewed %s", certificate.subject.rfc4514_string())
        return _certificates(certificate)

    async def root(self, request: Request) -> Response:
        path = self.folder.path / "root.json"
        if not path.exists():
            return _text(404, "this fleet has no root of releases (root.json) yet")
        return Response(path.read_bytes(), media_type="application/json")

    async def crl(self, request: Request) -> Response:
        return Response(self.folder.revocations().der, media_type="application/pkix-crl")

    def _answered(self, endpoint: Endpoint) -> Endpoint:
        """What goes wrong as a status and one line of text."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except RefusedError as error:
                log.info("refused %s: %s", request.url.path, error)
                realm = {"WWW-Authenticate": 'Basic realm="marram"'} if error.status == 401 else {}
                return _text(error.status, str(error), **realm)
            except MarramError as error:
                log.error("%s: %s", request.url.path, error)
                return _text(503, "the server cannot do this now; its log says why: try again later")

        return answer


def serve(folder: FleetFolder, host: str, port: int, hosts: tuple[str, ...]) -> None:
    """Serve until SIGTERM or SIGINT. hosts: names and addresses in the server's own certificate.

    Raises EnrolmentError, StorageError.
    """
    issuer = authority.load(folder.path)
    with folder.registry() as registry:
        folder.keep_revocations()
        server = Server(folder, EnrolmentService(folder, issuer, registry))
        pem = folder.keep_server(hosts)
        for name in (signal.SIGTERM, signal.SIGINT):
            # uvicorn ends well at these, and then raises them again.
            signal.signal(name, lambda *_: None)

        @asynccontextmanager
        async def lifespan(application: Starlette) -> AsyncIterator[None]:
            chores = asyncio.create_task(_chores(folder, hosts, config))
            notify(READY="1")
            yield
            chores.cancel()

        config = uvicorn.Config(
            Starlette(routes=server.routes(), lifespan=lifespan),
            http=PeerProtocol,
            ws="none",
            ssl_certfile=pem,
            ssl_ca_certs=str(folder.path / "ca.crt"),
            ssl_cert_reqs=ssl.CERT_OPTIONAL,
            log_config=None,
            access_log=False,
            server_header=False,
            # Addresses are believed as they are: a client's certificate reaches nobody behind a proxy anyway.
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            h11_max_incomplete_event_size=_HEADERS,
        )
        config.load()
        assert config.ssl is not None
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        with _listen(host, port) as listener:
            log.info("enrolment of fleet %s on %s:%d", folder.fleet.fleet, host, port)
            uvicorn.Server(config).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise EnrolmentError(f"{host}:{port}: cannot be listened on: {error.strerror}") from error


async def _chores(folder: FleetFolder, hosts: tuple[str, ...], config: uvicorn.Config) -> None:
    """Keep the list of revoked certificates and the server's own certificate from ending."""
    while True:
        await asyncio.sleep(_CHORES)
        try:
            await run_in_threadpool(folder.keep_revocations)
            pem = await run_in_threadpool(folder.keep_server, hosts)
            assert config.ssl is not None
            config.ssl.load_cert_chain(pem)
        except (MarramError, OSError) as error:
            log.error("the list of revoked certificates or the own certificate was not renewed: %s", error)


def _credentials(request: Request) -> tuple[str, str]:
    """(device's name, token) by HTTP Basic (RFC 7617)."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
        if not colon:
            raise ValueError
    except (ValueError, binascii.Error):
        raise RefusedError(
            401, "send the device's name and its token by HTTP Basic: user name and password"
        ) from None
    return name, password


async def _body(request: Request) -> bytes:
    """At most one byte more than a request may have, whatever the client sends."""
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > MAX_REQUEST:
                    break
    except TimeoutError as error:
        raise RefusedError(408, f"the request did not come within {_PATIENCE:.0f} s") from error
    except ClientDisconnect as error:
        raise RefusedError(400, "the connection ended before the request did") from error
    return bytes(body)


def _certificates(certificate: x509.Certificate) -> Response:
    return _base64(pkcs7.serialize_certificates([certificate], Encoding.DER), _CERTIFICATES)


def _base64(content: bytes, media_type: str) -> Response:
    headers = {"Content-Transfer-Encoding": "base64"}
    return Response(base64.encodebytes(content), media_type=media_type, headers=headers)


def _text(status: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers=headers)
