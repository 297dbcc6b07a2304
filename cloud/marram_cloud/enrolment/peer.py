"""Tells the application which certificate the client showed, which uvicorn leaves out.

By ASGI's TLS extension (asgi.readthedocs.io, specs/tls): ``scope["extensions"]["tls"]`` holds
``client_cert_chain``, PEM texts with the client's own certificate first; empty when it showed none.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import h11
from cryptography import x509
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

_PATIENCE = 30.0


class PeerProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; the handshake is over when a connection is made."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        secure = transport.get_extra_info("ssl_object")
        der = secure.getpeercert(binary_form=True) if secure is not None else None
        chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []
        inner = self.app
        self.loop.call_later(_PATIENCE, self._end_if_silent)

        async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            tls = {"client_cert_chain": chain}
            extensions = {**scope.get("extensions", {}), "tls": tls}
            await inner({**scope, "extensions": extensions}, receive, send)

        self.app = application

    def _end_if_silent(self) -> None:
        """Who has not even sent the head of a request by now takes a place from others."""
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def peer_certificate(request: Request) -> x509.Certificate | None:
    """The certificate that the client showed and TLS verified, or None."""
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    return x509.load_pem_x509_certificate(chain[0].encode()) if chain else None
