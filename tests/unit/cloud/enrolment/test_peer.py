"""What the application is told of the client, and who is not waited for."""

import asyncio

import pytest
import uvicorn
from marram_cloud.enrolment import peer
from uvicorn.server import ServerState


async def application(scope, receive, send):
    """Answers with what it was told of the client's certificate."""
    body = repr(scope["extensions"]["tls"]).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


async def conversation(sent):
    """What a client hears that sends this and waits until the server ends the connection."""
    config = uvicorn.Config(application, timeout_keep_alive=0, log_config=None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: peer.PeerProtocol(config, ServerState(), {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        heard = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return heard


def test_a_client_without_tls_or_certificate_has_an_empty_chain():
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert asyncio.run(conversation(request)).endswith(b"{'client_cert_chain': []}")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"], ids=["silent", "half"])
def test_who_sends_no_head_of_a_request_is_not_waited_for(sent, monkeypatch):
    monkeypatch.setattr(peer, "_PATIENCE", 0.05)
    assert asyncio.run(conversation(sent)) == b""
