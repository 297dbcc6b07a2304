"""Real processes of a test, each with its log, ended by its own process id; and waiting by looking."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 45.0
_LOOK = 0.05
_TAIL = 30


def eventually(what: str, condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Look until ``condition()`` is true; AssertionError with ``what`` after ``patience`` seconds."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"did not come within {patience:.0f} s: {what}")
        time.sleep(_LOOK)


class Process:
    """One program of the project as a user starts it. module: "marram.cli" or "marram_cloud.cli".

    own_group: it and its children are a process group of their own.
    """

    def __init__(self, module: str, arguments: list[str], log: Path, own_group: bool = False) -> None:
        self.log, self._own_group = log, own_group
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """Start it; more variables of its environment may be given."""
        assert not self.running, "it runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=self._own_group,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As a power cut: kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def stop(self) -> int:
        """As a service manager: SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for its own end; the exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def said(self, text: str) -> bool:
        """Whether its log holds this text."""
        return self.log.exists() and text in self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The end of its log, for a failed test."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"---- {self.log.name}", *lines[-_TAIL:]])


def ended(pid: int) -> bool:
    """Whether no process (but a zombie) has this id."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


class NotifySocket:
    """systemd's side of sd_notify: keeps what a daemon says about itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.2)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> NotifySocket:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()

    def said(self, message: str) -> bool:
        """Whether this message has come by now."""
        return message in self.messages

    def count(self, message: str) -> int:
        """How often this message has come by now."""
        return self.messages.count(message)

    def _read(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                self.messages.append(self._socket.recv(4096).decode())
