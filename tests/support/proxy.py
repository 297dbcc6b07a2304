"""A TCP proxy in front of a broker: the network of a test, which can be cut, held up, and listened to."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

_NAMES = (
    "", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
    "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
)  # fmt: skip


@dataclass
class Flow:
    """What went one way on one connection."""

    data: bytearray = field(default_factory=bytearray)

    def packets(self) -> list[str]:
        """The names of the MQTT packets that are complete."""
        found, at = [], 0
        while at < len(self.data):
            length, place, shift = 0, at + 1, 0
            while place < len(self.data):
                byte = self.data[place]
                length |= (byte & 127) << shift
                place, shift = place + 1, shift + 7
                if byte < 128:
                    break
            else:
                break
            if place + length > len(self.data):
                break
            found.append(_NAMES[self.data[at] >> 4])
            at = place + length
        return found


@dataclass
class Connection:
    """One client's connection: ``up`` to the broker, ``down`` to the client."""

    client: socket.socket
    broker: socket.socket
    up: Flow = field(default_factory=Flow)
    down: Flow = field(default_factory=Flow)

    def close(self) -> None:
        for end in (self.client, self.broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Listens on a free loopback port and passes on to ``port``."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.connections: list[Connection] = []
        self._open = threading.Event()
        self._open.set()
        self._left: int | None = None
        self._passing = threading.Event()
        self._passing.set()
        self._answering = threading.Event()
        self._answering.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.flow()
        self.cut()

    def cut(self) -> None:
        """The network is gone: every connection ends, and new ones end at once."""
        self._open.clear()
        for connection in self.connections:
            connection.close()

    def mend(self) -> None:
        """The network is back."""
        self._open.set()

    def stall(self) -> None:
        """Connections stay, but nothing passes: a half-dead network."""
        self._passing.clear()

    def deafen(self) -> None:
        """What clients say passes, what is said to them is held up."""
        self._answering.clear()

    def stall_after(self, size: int) -> None:
        """Hold everything up once so many more bytes have gone to the clients."""
        self._left = size

    def flow(self) -> None:
        """What was held up passes."""
        self._left = None
        self._passing.set()
        self._answering.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                client.close()
                continue
            try:
                broker = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            connection = Connection(client, broker)
            self.connections.append(connection)
            for source, target, flow in (
                (client, broker, connection.up),
                (broker, client, connection.down),
            ):
                threading.Thread(
                    target=self._pass, args=(connection, source, target, flow), daemon=True
                ).start()

    def _pass(self, connection: Connection, source: socket.socket, target: socket.socket, flow: Flow) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536 if self._left is None else 2048):
                self._passing.wait()
                if flow is connection.down:
                    self._answering.wait()
                flow.data += data
                target.sendall(data)
                if self._left is not None and flow is connection.down:
                    self._left -= len(data)
                    if self._left <= 0:
                        self._passing.clear()
        connection.close()
