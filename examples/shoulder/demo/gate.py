"""A network that can hang: what passes between a device and the broker, until it does not."""

from __future__ import annotations

import contextlib
import socket
import threading


class Gate:
    """Forwards loopback connections to the port ``target``."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._hung = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self) -> None:
        """What is connected now stays connected, but nothing comes through any more; new connections work."""
        self._hung.set()
        self._hung = threading.Event()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for source, sink in ((device, broker), (broker, device)):
                threading.Thread(target=_forward, args=(source, sink, self._hung), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, hung: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if not hung.is_set():
                sink.sendall(data)
    if not hung.is_set():
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
