"""A process for a child's work: one of the daemon's own, or one that the service manager starts beside it.

Under systemd children run in a slice of their own (``marram-work.slice``), so that one that takes too much is
ended and inference is not. The unit file says so by MARRAM_WORK, the path of the socket that starts them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO, Protocol

from marram.children.unit import UnitProcess

SOCKET = "MARRAM_WORK"


class Process(Protocol):
    """``python -I -m MODULE PARENT`` with three pipes."""

    @property
    def pid(self) -> int: ...

    @property
    def stdin(self) -> IO[bytes] | None: ...

    @property
    def stdout(self) -> IO[bytes] | None: ...

    @property
    def stderr(self) -> IO[bytes] | None: ...

    def poll(self) -> int | None:
        """The status with which it ended (less than 0: by that signal), None while it runs."""
        ...

    def wait(self) -> int:
        """The same, once it has ended."""
        ...

    def kill(self) -> None: ...


def start(module: str, threads: int = 0) -> Process:
    """Start a child. threads: that its numeric libraries may use, 0 for their own choice. Raises OSError."""
    environment = {"ORT_DISABLE_TELEMETRY": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    socket = os.environ.get(SOCKET)
    if socket:
        return UnitProcess(socket, module, environment)
    return subprocess.Popen(
        [sys.executable, "-I", "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
