"""A child that the service manager starts, one for each connection to a socket (``Accept=yes``).

The connection carries what to run and the child's three pipes, then the child's process id, and at its end
its status. A child that loses the connection ends itself: so it is killed, and so it never outlives the
daemon.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
from contextlib import ExitStack
from typing import IO

_PATIENCE = 20.0
_NUMBER = struct.Struct(">i")


class UnitProcess:
    """See ``process.Process``. Raises OSError when the socket cannot be reached, or nobody starts."""

    def __init__(self, path: str, module: str, environment: dict[str, str]) -> None:
        self._status: int | None = None
        with ExitStack() as failing:
            self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            failing.callback(self._control.close)
            self._control.settimeout(_PATIENCE)
            (its_in, ours_in), (ours_out, its_out), (ours_err, its_err) = (os.pipe() for _ in range(3))
            its = (its_in, its_out, its_err)
            self.stdin: IO[bytes] = os.fdopen(ours_in, "wb")
            self.stdout: IO[bytes] = os.fdopen(ours_out, "rb")
            self.stderr: IO[bytes] = os.fdopen(ours_err, "rb")
            for pipe in (self.stdin, self.stdout, self.stderr):
                failing.callback(pipe.close)
            try:
                self._control.connect(path)
                request = json.dumps({"module": module, "environment": environment}).encode()
                socket.send_fds(self._control, [request], list(its))
            except OSError as error:
                raise OSError(error.errno, f"{path}: {error.strerror or error}") from error
            finally:
                for descriptor in its:
                    os.close(descriptor)
            pid = self._number()
            if pid is None:
                raise OSError(
                    0, f"{path}: what starts there ends at once; journalctl -u 'marram-work@*' says why"
                )
            self.pid = pid
            self._process = _open(pid)
            self._control.settimeout(None)
            failing.pop_all()

    def poll(self) -> int | None:
        """The status once ``wait`` has seen it."""
        return self._status

    def wait(self) -> int:
        """Its exit status; -9 when it had no time to tell one: killed, crashed, or out of its limits."""
        if self._status is None:
            told = self._number()
            if self._process is not None:
                select.select([self._process], [], [])
                os.close(self._process)
            self._status = -signal.SIGKILL if told is None else told
            self._control.close()
        return self._status

    def kill(self) -> None:
        """Have it end itself."""
        try:
            self._control.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            return

    def _number(self) -> int | None:
        data = b""
        while len(data) < _NUMBER.size:
            try:
                part = self._control.recv(_NUMBER.size - len(data))
            except TimeoutError as error:
                raise OSError(0, f"nothing was started within {_PATIENCE:.0f} s") from error
            except OSError:
                part = b""
            if not part:
                return None
            data += part
        return int(_NUMBER.unpack(data)[0])


def _open(pid: int) -> int | None:
    """A descriptor that can be read once the process has ended; None when it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
