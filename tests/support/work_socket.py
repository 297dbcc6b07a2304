"""What systemd does with marram-work.socket: one process for each connection, which is its standard input."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

WORKER = (sys.executable, "-I", "-m", "marram.children.worker")


class WorkSocket:
    """Listens until ``close``. command: of the worker."""

    def __init__(self, path: Path, command: Sequence[str] = WORKER) -> None:
        self.path, self.command = path, command
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            process = subprocess.Popen(self.command, stdin=connection)
            connection.close()
            threading.Thread(target=process.wait, daemon=True).start()
